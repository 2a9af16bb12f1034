"""What a service is: bytes in, bytes out, within so many seconds."""

from typing import Protocol


class Service(Protocol):
    """The work a mesh carries; the brokers neither know nor care what it is.

    To make your own: implement this, and give it to `mesh.cli.worker.run`.
    """

    #: Its name, as workers announce it.
    name: str
    #: True if `handle` never blocks: it then runs on the thread that moves messages, which saves two thread switches.
    inline: bool

    def handle(self, region: str, body: bytes, seconds: float) -> bytes:
        """Do one job about *region* within *seconds* and return the body of the reply.

        Called from as many threads at once as the worker has slots. It should not raise: an error is an answer too,
        in whatever form client and service agree on.
        """

    def close(self) -> None:
        """Release what the service holds."""
