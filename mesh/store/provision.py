"""From a mongod that has just been started for the first time to a shard: replica set, accounts, certificate.

Theory of operation. Everything is compared first, so a second run finds nothing to do. The daily way in is the admin's
password. Where that does not open the door, the content of the keyfile does: members of a set log in to each other as
`__system` with it, and so does this program. That is how the first account comes into being, and how the admin's
password follows the deployment's, without the time in which mongod takes anybody from localhost for its admin
(`enableLocalhostAuthBypass` is off from the first start).
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from mesh.errors import ConfigError, StoreError, StoreUnavailable
from mesh.store import accounts, replica_set
from mesh.store.boundary import Boundary
from mesh.store.deadline import Deadline

_AUTHENTICATION_FAILED = 18
_TIMEOUT_SECONDS = 10
#: Initiating asks every member, and waits for those that do not answer.
_SOCKET_SECONDS = 60


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a mongod should be; `mesh-store provision` reads it as JSON, because half of it is secret."""

    #: `host:port` to connect to, on this host.
    address: str
    replica_set: str
    #: `host:port` of every member as the others know it; the first one initiates the set.
    members: list[str]
    #: Which of them this one is.
    own: str
    #: The content of mongod's keyfile.
    keyfile: str
    #: Account -> password.
    passwords: dict[str, str]
    database: str = "mesh"
    #: Where reader, writer and schema may log in from, beside this host; empty for everywhere.
    client_sources: list[str] = []
    #: CA of mongod's certificate; without one, the connection is not encrypted.
    ca_file: str = ""
    #: The file mongod has its certificate from, to tell it when that holds another one.
    certificate_file: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What was different, and so was changed."""

    primary: bool
    differences: list[str]


def parse(text: bytes | str) -> Wanted:
    """Return what JSON says; the errors name fields, never what stands in them."""
    try:
        asked = msgspec.json.decode(text, type=Wanted)
    except msgspec.DecodeError as error:
        raise ConfigError(str(error), file="standard input") from None
    missing = {accounts.ADMIN, *accounts.ROLES} - {name for name, password in asked.passwords.items() if password}
    if missing:
        raise ConfigError(f"no password for {', '.join(sorted(missing))}", file="standard input", field="passwords")
    if asked.own not in asked.members:
        raise ConfigError(f"{asked.own} is no member", file="standard input", field="own")
    return asked


def provision(asked: Wanted, *, change: bool = True, seconds: float = 60.0) -> Outcome:
    """Make a mongod what it should be, or without *change* only say how it differs."""
    with Boundary(Deadline()), _door(asked) as client:
        state = replica_set.ensure(
            client, asked.replica_set, asked.members, asked.own, change=change, seconds=seconds
        )  # fmt: skip
        differences = [*state.differences]
        if not state.initiated:
            differences.append("accounts: are missing")
        elif state.primary:
            differences += _accounts(client, asked, change=change)
        differences += _certificate(client, asked, change=change)
    return Outcome(state.primary, differences)


def _accounts(client: MongoClient[Any], asked: Wanted, *, change: bool) -> list[str]:
    def login(name: str, password: str, database: str) -> bool:
        with _client(asked, name, password, database) as tried:
            return _opens(tried)

    members = [member.rpartition(":")[0] for member in asked.members]
    desired = accounts.wanted(asked.database, members, asked.client_sources)
    return accounts.ensure(client, asked.database, desired, asked.passwords, login, change=change)


@contextmanager
def _door(asked: Wanted) -> Iterator[MongoClient[Any]]:
    """Log in as the admin, or if there is none with this password, as a member of the set would."""
    ways = ((accounts.ADMIN, asked.passwords[accounts.ADMIN], "admin"), ("__system", _key(asked.keyfile), "local"))
    for name, password, database in ways:
        with _client(asked, name, password, database) as client:
            if _opens(client):
                yield client
                return
    ways_tried = f"neither the password of {accounts.ADMIN} nor the keyfile opens mongod"
    raise StoreError(f"{ways_tried}; does it still run with an older keyfile?")


def _key(keyfile: str) -> str:
    # mongod ignores white space in it. It may hold several keys as a YAML list, of which any opens the door.
    first = next((line for line in keyfile.splitlines() if line.startswith("- ")), keyfile)
    return "".join(first.removeprefix("- ").split())


def _client(asked: Wanted, name: str, password: str, database: str) -> MongoClient[Any]:
    tls: dict[str, Any] = {"tls": True, "tlsCAFile": asked.ca_file} if asked.ca_file else {}
    return MongoClient(
        f"mongodb://{asked.address}/", directConnection=True, username=name, password=password, authSource=database,
        authMechanism="SCRAM-SHA-256", appname="mesh-store provision",
        serverSelectionTimeoutMS=_TIMEOUT_SECONDS * 1_000, socketTimeoutMS=_SOCKET_SECONDS * 1_000, **tls,
    )  # fmt: skip


def _opens(client: MongoClient[Any]) -> bool:
    try:
        client.admin.command("ping")
    except OperationFailure as error:
        if error.code == _AUTHENTICATION_FAILED:
            return False
        raise
    return True


def _certificate(client: MongoClient[Any], asked: Wanted, *, change: bool) -> list[str]:
    """Have mongod read its certificate again if it serves another one: no restart, no connection lost."""
    if not (asked.certificate_file and asked.ca_file):
        return []
    if _served(asked) == _stored(Path(asked.certificate_file)):
        return []
    if change:
        client.admin.command("rotateCertificates", message="mesh-store provision")
    return ["certificate: another one is in its file"]


def _served(asked: Wanted) -> str:
    host, _, port = asked.address.rpartition(":")
    try:
        return ssl.get_server_certificate((host, int(port)), timeout=_TIMEOUT_SECONDS).strip()
    except OSError as error:
        raise StoreUnavailable(f"mongod's certificate cannot be read ({type(error).__name__})") from None


def _stored(file: Path) -> str:
    try:
        text = file.read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file)) from None
    begin, end = ssl.PEM_HEADER, ssl.PEM_FOOTER
    body = text.partition(begin)[2].partition(end)[0]
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(f"{begin}\n{body.strip()}\n{end}")).strip()
