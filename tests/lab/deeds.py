"""Runs in a host with the Python of its release: what an account may do in the MongoDB there, as JSON.

deeds.py ADDRESS PORT CA  <<< '{"name": "mesh_reader", "password": "...", "database": "mesh"}'
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError


def deeds(client: MongoClient[Any]) -> dict[str, Callable[[], object]]:
    """Return what is tried; nothing of it leaves a trace."""
    places = client.mesh.places
    return {
        "find": lambda: places.find_one({"_id": "nobody"}),
        "write": lambda: places.update_one({"_id": "nobody"}, {"$set": {"props": {}}}),
        "remove": lambda: places.delete_one({"_id": "nobody"}),
        "list indexes": places.index_information,
        "statistics": lambda: client.mesh.command("collStats", "places"),
        "drop": lambda: client.mesh.command("drop", "nothing"),
        "other collection": client.mesh.other.find_one,
        "other database": client.other.places.find_one,
        "users": lambda: client.mesh.command("usersInfo", 1),
    }


def main() -> None:
    """Print which deeds are allowed, or why there is no connection."""
    address, port, ca_file = sys.argv[1:4]
    account = json.load(sys.stdin)
    options: dict[str, Any] = {"directConnection": True, "serverSelectionTimeoutMS": 3_000}
    if account["name"]:
        login = {"username": account["name"], "password": account["password"], "authSource": account["database"]}
        options |= login
    if ca_file != "none":
        options |= {"tls": True, "tlsCAFile": ca_file}
    with MongoClient(address, int(port), **options) as client:
        json.dump({name: outcome(act) for name, act in deeds(client).items()}, sys.stdout)


def outcome(act: Callable[[], object]) -> str:
    """Return `allowed`, `refused`, `no login`, or the name of another failure."""
    try:
        act()
    except OperationFailure as error:
        return {13: "refused", 18: "no login", 26: "allowed"}.get(error.code or 0, f"code {error.code}")
    except PyMongoError as error:
        return type(error).__name__
    return "allowed"


main()
