"""As whom a shard is asked, and how one knows that it is the right server."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Access:
    """An account and the certificates to trust; what is empty is not used."""

    username: str = ""
    #: Not in the representation: that ends up in tracebacks.
    password: str = field(default="", repr=False)
    #: Path of a PEM file. Set, it also means that the connection is encrypted.
    ca_file: str = ""
    #: The database of the account, where it is not that of the places.
    source: str = ""

    def options(self, database: str) -> dict[str, Any]:
        """Return what pymongo calls this; the account is one of *database* unless it says otherwise."""
        found: dict[str, Any] = {}
        if self.username:
            found |= {
                "username": self.username,
                "password": self.password,
                "authSource": self.source or database,
                # Without it the driver lets the server choose, and a server in between could choose the weaker one.
                "authMechanism": "SCRAM-SHA-256",
            }
        return found | ({"tls": True, "tlsCAFile": self.ca_file} if self.ca_file else {})


#: A MongoDB without accounts on a network one trusts, such as that of `mesh-local`.
ANYBODY = Access()
