"""One mongod of a shard as a member of its replica set: initiate it, take in members, let them go.

Every step is one that can be repeated. Members come and go one at a time, as MongoDB asks for: each change has a
majority in common with the one before, so no two primaries can exist.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from mesh.errors import ConfigError, StoreError, StoreUnavailable

Document = dict[str, Any]
_ALREADY_INITIATED = 23
#: Another change is under way (the server makes one itself when a new member has copied all), or has not reached a
#: majority yet, or was faster than ours.
_NOT_YET = {103, 109, 308}
_POLL_SECONDS = 0.1


class State(NamedTuple):
    """What a mongod is in its set, and a line for each difference from what it should be."""

    initiated: bool
    primary: bool
    differences: list[str]


def ensure(
    client: MongoClient[Any], name: str, members: Sequence[str], own: str, *, change: bool, seconds: float = 60.0
) -> State:
    """Make a mongod the member it should be, or without *change* only say how it differs.

    The first of *members* initiates the set, the others wait for it. Only the primary changes members.
    """
    deadline = time.monotonic() + seconds
    differences: list[str] = []
    if "setName" not in client.admin.command("hello"):
        differences.append(f"replica set {name}: is not initiated")
        if not change:
            return State(initiated=False, primary=members[0] == own, differences=differences)
        if members[0] == own:
            _initiate(client, name, members)
    hello = _wait_until_member(client, own, deadline)
    if hello["setName"] != name:
        raise ConfigError(f"mongod is a member of {hello['setName']}, and a set keeps its name", field="replica_set")
    if not hello["isWritablePrimary"]:
        return State(initiated=True, primary=False, differences=differences)
    differences += _adjust(client, members, own, deadline, change=change)
    return State(initiated=True, primary=True, differences=differences)


def _initiate(client: MongoClient[Any], name: str, members: Sequence[str]) -> None:
    listed = [{"_id": number, "host": host} for number, host in enumerate(members)]
    try:
        client.admin.command("replSetInitiate", {"_id": name, "version": 1, "members": listed})
    except OperationFailure as error:
        if error.code == _ALREADY_INITIATED:
            return _readdress(client, members)
        # The server names the members that did not answer, and no data.
        raise StoreUnavailable(f"replica set {name} cannot be initiated: {_words(error)}") from None


def _readdress(client: MongoClient[Any], members: Sequence[str]) -> None:
    # The host got another address: the set knows its only member by the old one, and elects nobody for ever.
    config = client.admin.command("replSetGetConfig")["config"]
    if len(config["members"]) != 1 or len(members) != 1:
        known = ", ".join(each["host"] for each in config["members"])
        raise StoreError(f"mongod is no member of its own replica set, which has {known}")
    config |= {"members": [config["members"][0] | {"host": members[0]}], "version": config["version"] + 1}
    client.admin.command("replSetReconfig", config, force=True)


def _wait_until_member(client: MongoClient[Any], own: str, deadline: float) -> Document:
    """Return `hello` of a primary, or of a secondary that knows another one to be it."""
    while True:
        with contextlib.suppress(PyMongoError):
            hello: Document = client.admin.command("hello")
            # For a moment after its election, a primary says that it is a secondary, and names itself.
            if hello.get("isWritablePrimary") or (hello.get("secondary") and hello.get("primary") not in {None, own}):
                return hello
        if time.monotonic() > deadline:
            raise StoreUnavailable("mongod runs, but its replica set has no primary: are the other members up?")
        time.sleep(_POLL_SECONDS)


def _adjust(client: MongoClient[Any], members: Sequence[str], own: str, deadline: float, *, change: bool) -> list[str]:
    present = [each["host"] for each in _config(client)["members"]]
    added = [host for host in members if host not in present]
    removed = [host for host in present if host not in members]
    if own in removed:
        raise ConfigError(f"{own} is the primary and shall leave its set", field="members", hint="step it down first")
    if change:
        for host in added:
            _change(client, partial(_with, host), deadline)
        for host in removed:
            _change(client, partial(_without, host), deadline)
    return [f"member {host}: is missing" for host in added] + [f"member {host}: is one too many" for host in removed]


def _change(client: MongoClient[Any], edit: Callable[[Document], list[Document]], deadline: float) -> None:
    while True:
        config = _config(client)
        config |= {"members": edit(config), "version": config["version"] + 1}
        try:
            client.admin.command("replSetReconfig", config, maxTimeMS=10_000)
        except OperationFailure as error:
            if error.code not in _NOT_YET or time.monotonic() > deadline:
                raise StoreError(f"the replica set cannot be changed: {_words(error)}") from None
            time.sleep(_POLL_SECONDS)
        else:
            return


def _config(client: MongoClient[Any]) -> Document:
    config: Document = client.admin.command("replSetGetConfig")["config"]
    return config


def _with(host: str, config: Document) -> list[Document]:
    # A new member copies all data before it votes; since 5.0 the server itself counts it only then.
    number = 1 + max(each["_id"] for each in config["members"])
    return [*config["members"], {"_id": number, "host": host}]


def _without(host: str, config: Document) -> list[Document]:
    return [each for each in config["members"] if each["host"] != host]


def _words(error: OperationFailure) -> str:
    return str((error.details or {}).get("errmsg", "")) or f"code {error.code}"
