"""What has to be done on a host so that it runs a release: decided from what it is, not from what a playbook just did.

A handler that failed, or a run that was cut short, leaves a host that differs from what is wanted, and the next run
sees exactly that.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

BROKER, SOCKET, TARGET = "mesh-broker.service", "mesh-broker.socket", "mesh.target"
UNITS = "/etc/systemd/system"
_WORKER = re.compile(r"mesh-worker@(\d+)\.service")
_OURS = re.compile(r"mesh(-[a-z]+@?)?\.(service|socket|target|slice)")


class FilterModule:
    """The filters, by the names that templates use."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {
            "mesh_services_todo": todo,
            "mesh_services_drift": drift,
            "mesh_services_before": before,
            "mesh_services_lineup": lineup,
            "mesh_services_status": status_text,
            "mesh_services_silent_peers": silent_peers,
            "mesh_services_link": link,
        }


def todo(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has to be done on a host; `why` is empty if nothing has.

    *found* is the probe's answer. *wanted* has `home`, `release`, `fingerprint`, `broker` (whether there is one here),
    `listen` (its address and port), `workers` (how many), `units` (text of each, or nothing: as the release has them).
    """
    paths, state = found["paths"], found["units"]
    names = [f"mesh-worker@{number}.service" for number in range(1, wanted["workers"] + 1)]
    services = [BROKER, *names] if wanted["broker"] else names
    units = _unit_digests(paths, wanted)
    stale_units = sorted(name for name, digest in units.items() if _digest_at(paths, f"{UNITS}/{name}") != digest)
    status = status_text(wanted["release"], wanted["fingerprint"])
    stale = [name for name in services if stale_units or not _runs(state.get(name, {}), status)]
    known = {name for name in [*found["enabled"], *state] if _WORKER.fullmatch(name)}
    enabled = [TARGET, *([SOCKET] if wanted["broker"] else []), *services]
    current = link(found, wanted["home"], "current")
    actions = {
        "units": stale_units,
        "surplus_units": sorted(_installed(paths) - set(units)) if units else [],
        "reload": any(unit.get("NeedDaemonReload") == "yes" for unit in state.values()) or bool(stale_units),
        "flip": current != wanted["release"],
        "enable": [name for name in enabled if name not in found["enabled"]],
        "disable": sorted(known - set(names)),
        "socket": wanted["broker"] and not (_active(state.get(SOCKET, {})) and wanted["listen"] in found["listening"]),
        "target": not _active(state.get(TARGET, {})),
        "broker": BROKER in stale,
        "workers": [name for name in stale if name != BROKER],
    }
    return {**actions, "former": current, "running": _any_runs(state), "why": [key for key in actions if actions[key]]}


def status_text(release: str, fingerprint: str) -> str:
    """Return how the status line of a process begins that was started with both."""
    return f"release={release} fingerprint={fingerprint}"


def link(found: Mapping[str, Any], home: str, name: str) -> str:
    """Return the release that `current` or `previous` names; nothing on a host that never had one."""
    target = found["paths"].get(f"{home}/{name}", {}).get("target", "")
    return str(target).rpartition("/")[2]


def drift(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return what `todo` found to be done, as people read it."""
    said = [f"unit {name} was changed" for name in found["units"]]
    said += [f"unit {name} is too much" for name in [*found["surplus_units"], *found["disable"]]]
    said += [f"{name} is not started at boot" for name in found["enable"]]
    if found["flip"]:
        said.append(f"release {found['former'] or 'none'} is current, not {wanted['release']}")
    stale = [*([BROKER] if found["broker"] else []), *found["workers"]]
    said += [f"{name} does not run as {wanted['release']}, {wanted['fingerprint']}" for name in stale]
    words = {"reload": "systemd has not read its units anew", "target": f"{TARGET} is not active",
             "socket": f"{SOCKET} is not active, or not at {wanted['listen']}"}  # fmt: skip
    return said + [text for key, text in words.items() if found[key]]


def before(found: Mapping[str, Any], home: str) -> dict[str, Any]:
    """Return where the way back from a failed rollout leads: the plan whose result the host now is."""
    numbers = [int(match[1]) for name in found["enabled"] if (match := _WORKER.fullmatch(name))]
    return {
        "release": link(found, home, "current"),
        "previous": link(found, home, "previous"),
        "rollout": found["rollout"],
        "workers": max(numbers, default=0),
    }


def lineup(hosts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the hosts with something to do, in the order in which to do it.

    Those that serve nobody come first: they can only gain, and what is wrong with a release shows where nobody is hurt.
    Then the brokers, then the hosts that only have workers.
    """
    pending = [host for host in hosts if host["_mesh_services_todo"]["why"]]
    return [host["inventory_hostname"] for host in sorted(pending, key=_rank)]


def _rank(host: Mapping[str, Any]) -> tuple[bool, bool]:
    return host["_mesh_services_todo"]["running"], "mesh_brokers" not in host["group_names"]


def silent_peers(answer: str, virgin: Iterable[str]) -> list[str]:
    """Return the peers that a broker's status does not show at work in both directions, but for regions without a mesh.

    An answer that is none gives `?`: nothing is known of any peer.
    """
    try:
        peers = json.loads(answer)["peers"]
    except (ValueError, KeyError, TypeError):
        return ["?"]
    excused = set(virgin)
    silent = [peer["region"] for peer in peers if not peer["serving"] == peer["asking"] == "open"]
    return [region for region in silent if region not in excused]


# -- inside -----------------------------------------------------------------------------------------------------------


def _unit_digests(paths: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    if wanted.get("units"):
        return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in wanted["units"].items()}
    directory = f"{wanted['home']}/releases/{wanted['release']}/units/"
    return {path[len(directory) :]: facts["sha256"] for path, facts in paths.items() if path.startswith(directory)}


def _installed(paths: Mapping[str, Any]) -> set[str]:
    files = {path for path, facts in paths.items() if path.startswith(f"{UNITS}/mesh") and facts.get("kind") == "file"}
    return {name for path in files if _OURS.fullmatch(name := path[len(UNITS) + 1 :])}


def _digest_at(paths: Mapping[str, Any], path: str) -> str:
    return str(paths.get(path, {}).get("sha256", ""))


def _active(unit: Mapping[str, Any]) -> bool:
    return unit.get("ActiveState") == "active"


def _runs(unit: Mapping[str, Any], status: str) -> bool:
    return _active(unit) and f"{unit.get('StatusText', '')} ".startswith(f"{status} ")


def _any_runs(state: Mapping[str, Any]) -> bool:
    return any(_active(unit) for name, unit in state.items() if name == BROKER or _WORKER.fullmatch(name))
