"""Who may do what in a shard: accounts and their roles as data; compare with the server's, make it so.

Each account has a role of its name that holds its privileges, and no other. Workers have the writer, a backup the
reader, a deployment the schema account; a broker has none. The admin is for the operator and the deployment, and comes
from the hosts of the set only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pymongo import MongoClient
from pymongo.errors import OperationFailure

Document = dict[str, Any]
#: Logs in with a name, a password and a database; whether that worked.
Login = Callable[[str, str, str], bool]

ADMIN = "mesh_admin"
MECHANISMS = ["SCRAM-SHA-256"]
_LOOPBACK = "127.0.0.1"
_NOT_THERE = {11, 31}  # UserNotFound, RoleNotFound


class Privilege(NamedTuple):
    """Actions on a collection of the application's database; the empty name is every one of them."""

    collection: str
    actions: tuple[str, ...]


#: What the store does with each: find and count read; insert, upsert, update, move and delete write; ensure-indexes
#: compares, creates and sets rules; a missing collection is created with its rules.
ROLES: dict[str, tuple[Privilege, ...]] = {
    "mesh_reader": (Privilege("places", ("find",)),),
    "mesh_writer": (Privilege("places", ("find", "insert", "remove", "update")),),
    "mesh_schema": (
        Privilege("", ("listCollections",)),
        Privilege("places", ("collMod", "collStats", "createCollection", "createIndex", "listIndexes")),
    ),
}


class Account(NamedTuple):
    """One user as it should be."""

    name: str
    database: str
    roles: list[Document]
    #: Addresses and networks it may log in from; empty for everywhere.
    sources: list[str]


def wanted(database: str, members: Sequence[str], sources: Sequence[str]) -> list[Account]:
    """Return the accounts of a shard; *members* are the addresses of its set, *sources* those of who reads it."""
    restricted = sorted({_LOOPBACK, *members, *sources}) if sources else []
    admin = Account(ADMIN, "admin", [{"role": "root", "db": "admin"}], sorted({_LOOPBACK, *members}))
    return [admin, *(Account(name, database, [{"role": name, "db": database}], restricted) for name in ROLES)]


def ensure(
    client: MongoClient[Any], database: str, accounts: Sequence[Account], passwords: Mapping[str, str], login: Login,
    *, change: bool,
) -> list[str]:  # fmt: skip
    """Make roles and accounts as they should be; return a line for each difference, without *change* only that."""
    differences = list(_roles(client, database, change=change))
    for account in accounts:
        fault = _fault(client, account, passwords[account.name], login)
        if fault is None:
            continue
        differences.append(f"account {account.name}: {fault}")
        if change:
            _write(client, account, passwords[account.name], exists=fault != "is missing")
    return differences


def _roles(client: MongoClient[Any], database: str, *, change: bool) -> Iterator[str]:
    for name, privileges in ROLES.items():
        held = _info(client, database, "rolesInfo", "roles", name, showPrivileges=True)
        desired = [_document(database, privilege) for privilege in privileges]
        if held is not None and not held["roles"] and _order(held["privileges"]) == _order(desired):
            continue
        yield f"role {name}: {'is missing' if held is None else 'has other privileges'}"
        if change:
            command = "createRole" if held is None else "updateRole"
            client[database].command(command, name, privileges=desired, roles=[])


def _fault(client: MongoClient[Any], account: Account, password: str, login: Login) -> str | None:
    held = _info(client, account.database, "usersInfo", "users", account.name, showAuthenticationRestrictions=True)
    if held is None:
        return "is missing"
    if _order(held["roles"]) != _order(account.roles):
        return "has other roles"
    restrictions = [sorted(each.get("clientSource", [])) for each in held.get("authenticationRestrictions", [])]
    if restrictions != ([account.sources] if account.sources else []):
        return "may log in from elsewhere"
    if held.get("mechanisms") != MECHANISMS:
        return "has other mechanisms"
    # The server compares no passwords; whoever has the right one gets in, and nobody else.
    return None if login(account.name, password, account.database) else "has another password"


def _write(client: MongoClient[Any], account: Account, password: str, *, exists: bool) -> None:
    restrictions = [{"clientSource": account.sources}] if account.sources else []
    client[account.database].command(
        "updateUser" if exists else "createUser", account.name, pwd=password, roles=account.roles,
        mechanisms=MECHANISMS, authenticationRestrictions=restrictions,
    )  # fmt: skip


def _info(
    client: MongoClient[Any], database: str, command: str, kind: str, name: str, **options: bool
) -> Document | None:
    asked: Document = {command: {kind.removesuffix("s"): name, "db": database}, **options}
    try:
        found: list[Document] = client[database].command(asked)[kind]
    except OperationFailure as error:
        if error.code in _NOT_THERE:
            return None
        raise
    return found[0] if found else None


def _document(database: str, privilege: Privilege) -> Document:
    return {"resource": {"db": database, "collection": privilege.collection}, "actions": list(privilege.actions)}


def _order(documents: Sequence[Document]) -> list[str]:
    """Return documents in an order of their own, lists inside them sorted: the server keeps neither."""
    return sorted(str(sorted((key, _comparable(value)) for key, value in each.items())) for each in documents)


def _comparable(value: Any) -> Any:
    if isinstance(value, list):
        return sorted(value)
    return sorted(value.items()) if isinstance(value, dict) else value
