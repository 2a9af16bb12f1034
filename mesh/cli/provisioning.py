"""mesh-store provision: what a deployment runs on every host with a mongod."""

import sys
from typing import Annotated

import msgspec
import typer

from mesh.cli import choosing
from mesh.service import lifecycle
from mesh.store import provision as provisioning


def provision(
    check: Annotated[bool, typer.Option("--check", help="Change nothing, only say what is different.")] = False,
    seconds: Annotated[float, typer.Option(help="How long to wait for a primary.")] = 60.0,
    as_json: choosing.Json = False,
) -> None:
    """Make the mongod of this host a shard, as the JSON on standard input says: replica set, accounts, certificate.

    Prints what was different. docs/operations.md has the fields; the role `mongodb` writes them.
    """
    with lifecycle.complaints("mesh-store"):
        asked = provisioning.parse(sys.stdin.buffer.read())
        outcome = provisioning.provision(asked, change=not check, seconds=seconds)
    if as_json:
        print(msgspec.json.encode(outcome).decode())
        return
    for difference in outcome.differences:
        print(difference)
    if not outcome.differences:
        print("as it should be" if outcome.primary else "a secondary; accounts come from the primary")
