"""From a bare mongod to a shard with accounts, and what each account may do."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError
from secured import LOOPBACK, Authority, Secured

from mesh.errors import ConfigError, StoreError
from mesh.store import indexes
from mesh.store.accounts import ADMIN
from mesh.store.provision import parse

pytestmark = [pytest.mark.mongo, pytest.mark.slow]
_AUTHENTICATION_FAILED, _UNAUTHORIZED = 18, 13


@pytest.fixture
def bare(mongod: object, authority: Authority, tmp_path: Path) -> Iterator[Secured]:
    """Run one that nobody has provisioned yet."""
    running = Secured(tmp_path / "bare", authority)
    yield running
    running.stop()


def test_a_second_run_finds_nothing_to_do(bare: Secured) -> None:
    """Check says what is missing and changes nothing; the first run makes it; then there is nothing to say."""
    assert bare.provision(change=False).differences == ["replica set ne: is not initiated", "accounts: are missing"]
    first = bare.provision()
    assert first.primary
    assert first.differences == [
        "replica set ne: is not initiated",
        *(f"role {name}: is missing" for name in ("mesh_reader", "mesh_writer", "mesh_schema")),
        *(f"account {name}: is missing" for name in (ADMIN, "mesh_reader", "mesh_writer", "mesh_schema")),
    ]
    assert bare.provision().differences == []


def test_an_interrupted_run_is_completed_by_the_next(bare: Secured) -> None:
    """Whatever exists already is kept, whatever is missing is made."""
    with bare.client("__system", bare.keyfile, "local", host=f"{LOOPBACK}:{bare.port}") as inside:
        member = {"_id": 0, "host": bare.host}
        inside.admin.command("replSetInitiate", {"_id": "ne", "version": 1, "members": [member]})
    assert "replica set ne: is not initiated" not in bare.provision().differences
    assert bare.provision().differences == []


@pytest.mark.parametrize("name", [ADMIN, "mesh_writer"])
def test_a_password_changed_in_the_vault_is_changed_in_the_server(secured: Secured, name: str) -> None:
    """The new one opens, the old one does not; that of the admin too, although nobody knows the old one any more."""
    before = secured.passwords
    try:
        secured.passwords = before | {name: "another password, longer"}
        assert secured.provision(change=False).differences == [f"account {name}: has another password"]
        assert secured.provision().differences == [f"account {name}: has another password"]
        assert secured.provision().differences == []
        with secured.client(name, before[name]) as old, pytest.raises(OperationFailure) as refused:
            old.mesh.places.find_one()
        assert refused.value.code == _AUTHENTICATION_FAILED
    finally:
        secured.passwords = before
        secured.provision()


def test_whoever_is_in_stays_in_when_the_password_changes(secured: Secured) -> None:
    """A worker goes on with the connections it has, until it is restarted with the new password."""
    before = secured.passwords
    try:
        with secured.client("mesh_writer", maxPoolSize=1) as worker:
            worker.mesh.places.find_one()
            secured.passwords = before | {"mesh_writer": "another password, longer"}
            secured.provision()
            worker.mesh.places.find_one()
    finally:
        secured.passwords = before
        secured.provision()


def test_privileges_given_by_hand_are_taken_back(secured: Secured) -> None:
    """A role that was widened, a user with another role, a login from everywhere: named, and undone."""
    with secured.client(ADMIN) as admin:
        anything = [{"resource": {"db": "mesh", "collection": ""}, "actions": ["find", "dropCollection"]}]
        admin.mesh.command("updateRole", "mesh_reader", privileges=anything, roles=[])
        admin.mesh.command("grantRolesToUser", "mesh_writer", roles=["dbOwner"])
        admin.admin.command("updateUser", ADMIN, authenticationRestrictions=[])
    expected = [
        "role mesh_reader: has other privileges",
        f"account {ADMIN}: may log in from elsewhere",
        "account mesh_writer: has other roles",
    ]
    assert secured.provision().differences == expected
    assert secured.provision().differences == []


def _insert(client: MongoClient[Any]) -> None:
    document = {"_id": "x", "loc": {"type": "Point", "coordinates": [1.0, 2.0]}, "props": {}, "v": 1}
    client.mesh.places.replace_one({"_id": "x"}, document, upsert=True)


#: Deeds, those that are somebody's work and those that are nobody's.
DEEDS = {
    "find": lambda client: client.mesh.places.find_one(),
    "count": lambda client: client.mesh.places.count_documents({}),
    "write": _insert,
    "remove": lambda client: client.mesh.places.delete_one({"_id": "y"}),
    "index": lambda client: client.mesh.places.create_index([("loc", "2dsphere")]),
    "list": lambda client: list(client.mesh.list_collections()),
    "statistics": lambda client: client.mesh.command("collStats", "places"),
    "rules": lambda client: client.mesh.command("collMod", "places", validator=indexes.VALIDATOR),
    "drop an index": lambda client: client.mesh.places.drop_index("loc_2dsphere"),
    "drop the places": lambda client: client.mesh.command("drop", "places"),
    "another collection": lambda client: client.mesh.others.find_one(),
    "another database": lambda client: client.other.places.find_one(),
    "users": lambda client: client.mesh.command("usersInfo", 1),
    "shut down": lambda client: client.admin.command("shutdown"),
}
ALLOWED = {
    "mesh_reader": {"find", "count"},
    "mesh_writer": {"find", "count", "write", "remove"},
    "mesh_schema": {"index", "list", "statistics", "rules"},
}


@pytest.mark.parametrize("name", ALLOWED)
def test_an_account_may_do_its_work_and_nothing_else(secured: Secured, name: str) -> None:
    """Each deed is allowed or refused as the table says; so are those that nobody may do."""
    with secured.client("mesh_schema") as schema:
        indexes.ensure(schema.mesh.places)
    with secured.client(name) as client:
        done = {deed for deed, act in DEEDS.items() if _may(act, client)}
    assert done == ALLOWED[name]


def _may(act: Any, client: MongoClient[Any]) -> bool:
    try:
        act(client)
    except OperationFailure as error:
        assert error.code == _UNAUTHORIZED, error
        return False
    return True


def test_nobody_is_served_without_a_name(secured: Secured) -> None:
    """Without a login there is nothing to see, not even for the first one who comes from localhost."""
    host = f"{LOOPBACK}:{secured.port}"
    acts = (DEEDS["find"], lambda client: client.admin.command("createUser", "x", pwd="y", roles=["root"]))
    with MongoClient(host, directConnection=True, tls=True, tlsCAFile=str(secured.ca_file)) as nobody:
        for act in acts:
            with pytest.raises(OperationFailure) as refused:
                act(nobody)
            assert refused.value.code == _UNAUTHORIZED


def test_nobody_is_served_without_encryption(secured: Secured) -> None:
    """A connection that does not begin with TLS ends."""
    with (
        MongoClient(secured.host, directConnection=True, serverSelectionTimeoutMS=1_000) as plain,
        pytest.raises(ServerSelectionTimeoutError),
    ):
        plain.admin.command("ping")


def test_a_server_of_another_ca_is_not_trusted(secured: Secured, tmp_path: Path) -> None:
    """A certificate of somebody else's CA is refused before a password is sent."""
    other = tmp_path / "other.pem"
    other.write_bytes(Authority().pem)
    with (
        MongoClient(
            secured.host, directConnection=True, tls=True, tlsCAFile=str(other), serverSelectionTimeoutMS=1_000
        ) as client,
        pytest.raises(ServerSelectionTimeoutError, match="certificate verify failed"),
    ):
        client.admin.command("ping")


@contextmanager
def _from(source: str, secured: Secured) -> Iterator[str]:
    """Pass connections on to mongod so that they come from another address."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        listening.settimeout(5)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _ = listening.accept()
                    far = socket.create_connection((LOOPBACK, secured.port), source_address=(source, 0))
                    for one, other in ((near, far), (far, near)):
                        threading.Thread(target=_pump, args=(one, other), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"{LOOPBACK}:{listening.getsockname()[1]}"


def _pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError), one, other:
        while data := one.recv(65_536):
            other.sendall(data)


def _refused(secured: Secured, name: str, host: str) -> bool:
    with secured.client(name, host=host) as client:
        try:
            client.mesh.places.find_one()
        except OperationFailure as error:
            assert error.code == _AUTHENTICATION_FAILED
            return True
    return False


def test_the_admin_comes_from_the_hosts_of_the_set_only(secured: Secured) -> None:
    """With the right password, but from another address, the admin is refused."""
    with _from(secured.address, secured) as member:
        assert not _refused(secured, ADMIN, member)
    with _from("127.0.0.9", secured) as host:
        assert _refused(secured, ADMIN, host)
        assert not _refused(secured, "mesh_reader", host)
    assert not _refused(secured, ADMIN, f"{LOOPBACK}:{secured.port}")


def test_accounts_come_from_where_the_inventory_has_hosts(secured: Secured) -> None:
    """With sources given, a worker's host and this one are let in, and nobody else."""
    try:
        secured.provision(client_sources=["127.0.0.8"])
        with _from("127.0.0.8", secured) as known, _from("127.0.0.9", secured) as stranger:
            assert not _refused(secured, "mesh_writer", known)
            assert _refused(secured, "mesh_writer", stranger)
            assert not _refused(secured, "mesh_writer", f"{LOOPBACK}:{secured.port}")
        assert secured.provision(client_sources=["127.0.0.8"]).differences == []
    finally:
        secured.provision()


def test_only_the_strong_mechanism_is_offered(secured: Secured) -> None:
    """SCRAM-SHA-1 is not taken."""
    with secured.client("mesh_reader", authMechanism="SCRAM-SHA-1") as weak, pytest.raises(OperationFailure):
        weak.mesh.places.find_one()


def test_a_new_certificate_is_served_without_a_restart(secured: Secured) -> None:
    """The file was replaced: mongod is told so, and the connections it has live on."""
    with secured.client("mesh_reader", maxPoolSize=1) as client:
        client.mesh.places.find_one()
        pem = secured.directory / "server.pem"
        pem.write_bytes(secured.authority.issue(LOOPBACK, secured.address, days=60))
        assert secured.provision(change=False).differences == ["certificate: another one is in its file"]
        assert secured.provision().differences == ["certificate: another one is in its file"]
        assert secured.provision().differences == []
        client.mesh.places.find_one()


def test_a_host_with_another_address_finds_its_set_again(bare: Secured) -> None:
    """A set of one member whose address changed elects nobody; it gets the new address, and keeps its places."""
    bare.provision()
    with bare.client("mesh_writer") as writer:
        _insert(writer)
    bare.stop()
    bare.address = "127.0.0.3"
    (bare.directory / "server.pem").write_bytes(bare.authority.issue(LOOPBACK, bare.address))
    bare.start()
    assert bare.provision().primary
    with bare.client("mesh_reader") as reader:
        assert reader.mesh.places.find_one({"_id": "x"})


def test_three_members_become_one_set_and_can_be_exchanged(
    mongod: object, authority: Authority, tmp_path: Path
) -> None:
    """The first initiates, the others join; a fourth comes, the third goes; a secondary leaves all to the primary."""
    addresses = [f"127.0.0.{number}" for number in (11, 12, 13, 14)]
    nodes: list[Secured] = []
    try:
        for number, address in enumerate(addresses):
            nodes.append(Secured(tmp_path / str(number), authority, address, keyfile="c2hhcmVkIGJ5IGFsbA=="))
            nodes[number].passwords = nodes[0].passwords
        members = [node.host for node in nodes]
        assert nodes[0].provision(members=members[:3], own=members[0]).primary
        second = nodes[1].provision(members=members[:3], own=members[1])
        assert (second.primary, second.differences) == (False, [])
        exchanged = [members[0], members[1], members[3]]
        told = nodes[0].provision(members=exchanged, own=members[0]).differences
        assert told == [
            f"member {members[3]}: is missing",
            f"member {members[2]}: is one too many",
            f"account {ADMIN}: may log in from elsewhere",  # from the member that went
        ]
        assert nodes[0].provision(members=exchanged, own=members[0]).differences == []
        assert nodes[3].provision(members=exchanged, own=members[3]).differences == []
    finally:
        for node in nodes:
            node.stop()


def test_a_keyfile_of_two_keys_opens_with_either(mongod: object, authority: Authority, tmp_path: Path) -> None:
    """While one key takes over from another, mongod has both as a list; so has what a deployment knows."""
    both = "- b2xkIGtleSBvbGQ=\n- bmV3IGtleSBuZXc=\n"
    node = Secured(tmp_path / "both", authority, keyfile=both)
    try:
        assert node.provision().primary
        for keyfile in ("bmV3IGtleSBuZXc=", both):
            node.passwords |= {ADMIN: f"so that the keyfile is needed: {len(keyfile)}"}
            assert node.provision(keyfile=keyfile).differences == [f"account {ADMIN}: has another password"]
    finally:
        node.stop()


def test_a_foreign_keyfile_and_password_are_an_error_that_says_so(secured: Secured) -> None:
    """Neither opens: no guess, no change."""
    wrong = dict.fromkeys(secured.passwords, "wrong")
    with pytest.raises(StoreError, match="neither the password of mesh_admin nor the keyfile"):
        secured.provision(passwords=wrong, keyfile="d3Jvbmc=")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"passwords": {"mesh_admin": "S3CRET"}}, "no password for mesh_reader, mesh_schema, mesh_writer"),
        ({"own": "10.0.0.1:1"}, "is no member"),
        ({"keyfile": 7}, r"Expected `str`, got `int` - at `\$.keyfile`"),
        ({"more": 1}, "unknown field `more`"),
    ],
)
def test_what_is_asked_wrongly_is_refused_without_its_secrets(change: dict[str, Any], words: str) -> None:
    """The error names the field, and never what stands in it."""
    names = (ADMIN, "mesh_reader", "mesh_writer", "mesh_schema")
    asked = {
        "address": "127.0.0.1:1", "replica_set": "ne", "members": ["127.0.0.2:1"], "own": "127.0.0.2:1",
        "keyfile": "S3CRET", "passwords": dict.fromkeys(names, "S3CRET"),
    }  # fmt: skip
    with pytest.raises(ConfigError, match=words) as refused:
        parse(json.dumps(asked | change))
    assert "S3CRET" not in str(refused.value)
