"""What roles compute on the control node: names of releases, what differs, why a configuration would be refused."""

import fnmatch
import hashlib
import ipaddress
import json
import sys
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

#: Hex digits of a digest in a name.
_DIGITS = 12


class FilterModule:
    """The filters, by the names that templates use."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {
            "mesh_release_id": release_id,
            "mesh_fingerprint": fingerprint,
            "mesh_differing": differing,
            "mesh_drift": drift,
            "mesh_found_digests": found_digests,
            "mesh_config_fault": config_fault,
            "mesh_region_points": region_points,
            "mesh_inventory_faults": inventory_faults,
            "mesh_weak_secrets": weak_secrets,
            "mesh_shards": shards,
            "mesh_peers": peers,
            "mesh_host_port": host_port,
            "mesh_secret_files": secret_files,
            "mesh_named_files": named_files,
            "mesh_content_digests": content_digests,
            "mesh_network_faults": network_faults,
            "mesh_nft_sets": nft_sets,
        }


# -- names ------------------------------------------------------------------------------------------------------------


def release_id(version: str, *parts: str | Mapping[str, str]) -> str:
    """Return `<version>-<12 hex>`: the digest covers all *parts*, texts or files by name, and where each ends."""
    return f"{version}-{_digest([version, *parts])}"


def fingerprint(release: str, secrets: Mapping[str, str]) -> str:
    """Return the name of a state: a release, and the digests of the secrets it was started with."""
    return _digest([release, dict(secrets)])


def _digest(parts: list[Any]) -> str:
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=dict)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGITS]


# -- what differs -----------------------------------------------------------------------------------------------------


def differing(wanted: Iterable[Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return those of the *wanted* paths that are not on the host as they should be.

    A wanted path has `path`, `mode` (quoted octal), `owner` (default root) and `content` for a file, `target` for a
    link, neither for a directory; `found` is what the probe saw.
    """
    return [dict(item) for item in wanted if not _same(item, found.get(item["path"], {}))]


def drift(items: Iterable[Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what is wrong at each of the differing *items*, as people read it; never what is in a file."""
    return [_difference(item, found.get(item["path"], {})) for item in items]


def _difference(item: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    path = item["path"]
    if not there:
        return f"{path} is missing"
    if "target" in item:
        return f"{path} does not point to {item['target']}"
    wanted = f"{item.get('owner', 'root')} {item['mode']}"
    if (found := f"{there.get('owner')} {there.get('mode')}") != wanted:
        return f"{path} is {found}, not {wanted}"
    return f"{path} was changed" if "content" in item else f"{path} is no directory"


def found_digests(found: Mapping[str, Mapping[str, Any]], patterns: Iterable[str]) -> dict[str, str]:
    """Return the digests of the files on a host that match a pattern."""
    paths = [path for path in found for pattern in patterns if fnmatch.fnmatch(path, pattern)]
    return {path: found[path]["sha256"] for path in sorted(paths) if "sha256" in found[path]}


def _same(item: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    if "target" in item:
        return there.get("target") == item["target"]
    if there.get("mode") != item["mode"] or there.get("owner") != item.get("owner", "root"):
        return False
    if "content" in item:
        return bool(there.get("sha256") == hashlib.sha256(item["content"].encode()).hexdigest())
    return there.get("kind") == "directory"


# -- what must not reach a host ---------------------------------------------------------------------------------------


def config_fault(text: str) -> str:
    """Return what `mesh-config check` would say of a mesh.toml, nothing if it is right."""
    try:
        from mesh.config.load import parse  # noqa: PLC0415 - the other filters work without the package
        from mesh.errors import ConfigError  # noqa: PLC0415
    except ImportError as error:
        return f"this Python ({sys.executable}) lacks {error.name}: pip install '.[deploy]' where ansible is"
    try:
        parse(text)
    except ConfigError as error:
        return " ".join(str(error).split())
    return ""


def inventory_faults(brokers: Iterable[Any], hosts: Iterable[Any], polygons: Iterable[str]) -> list[str]:
    """Return what is wrong with the hosts as a whole, each as a sentence; *polygons* are the regions of the map."""
    polygons = list(polygons)
    faults = []
    regions: dict[str, str] = {}
    for host in brokers:
        name, region = host["inventory_hostname"], host.get("mesh_region", "")
        if region in regions:
            faults.append(f"{name} and {regions[region]} are both brokers of region {region}; a region has one.")
        elif region and region not in polygons:
            faults.append(f"{name}: the region map has no polygon {region}; it has {', '.join(polygons)}.")
        regions[region] = name
    addresses: dict[str, str] = {}
    for host in hosts:
        faults += _host_faults(host, regions, addresses)
    return faults


def _host_faults(host: Any, regions: Mapping[str, str], addresses: dict[str, str]) -> list[str]:
    name, address = host["inventory_hostname"], str(host.get("mesh_address", ""))
    faults = []
    if host.get("mesh_region", "") not in regions or not host.get("mesh_region"):
        faults.append(f"{name}: mesh_region is {host.get('mesh_region', '')!r}, and no host of mesh_brokers has it.")
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return [*faults, f"{name}: mesh_address {address!r} is no address; write the one the other hosts reach it at."]
    if parsed.is_unspecified or parsed.is_loopback or parsed.is_multicast:
        faults.append(f"{name}: mesh_address {address} cannot be reached by the other hosts.")
    if str(parsed) in addresses:
        faults.append(f"{name} and {addresses[str(parsed)]} have the same mesh_address {address}.")
    addresses[str(parsed)] = name
    return faults


def weak_secrets(secrets: Mapping[str, Any], placeholder: str) -> list[str]:
    """Return the names of secrets that are missing, empty or still the example's; never a value."""
    return [name for name, value in secrets.items() if not isinstance(value, str) or not value.strip()
            or placeholder in value]  # fmt: skip


def network_faults(sets: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return which networks are none, each as a sentence."""
    return [f"{text!r} in the networks of {each['name']} is no network." for each in sets for text in each["networks"]
            if _network(text) is None]  # fmt: skip


def nft_sets(sets: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each set of networks as two of nftables, which keeps IPv4 and IPv6 apart."""
    found = []
    for each in sets:
        networks = [network for text in each["networks"] if (network := _network(text))]
        for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
            elements = sorted({network for network in networks if network.version == version})
            found.append({"name": f"{each['name']}{version}", "type": kind, "elements": [str(e) for e in elements]})
    return found


def _network(text: Any) -> Any:
    try:
        return ipaddress.ip_network(str(text))
    except ValueError:
        return None


# -- what the map and the inventory say -------------------------------------------------------------------------------


def region_points(geojson: str | Path) -> dict[str, dict[str, float]]:
    """Return a position well inside each region of a map, for a question that only this region can answer.

    The middle of the longest piece of the parallel through the middle of the region's largest ring.
    """
    return {feature["id"]: _inside(feature["geometry"]) for feature in json.loads(geojson)["features"]}


def _inside(geometry: Mapping[str, Any]) -> dict[str, float]:
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    rings = max(polygons, key=lambda polygon: _area(polygon[0]))
    lats = [lat for _, lat in rings[0]]
    # Off any vertex's latitude, so that each edge is crossed or not, never touched.
    middle = (min(lats) + max(lats)) / 2 + 1.234567e-7
    crossings = sorted(lon for ring in rings for lon in _crossings(ring, middle))
    west, east = max(zip(crossings[::2], crossings[1::2], strict=True), key=lambda span: span[1] - span[0])
    return {"lon": round((west + east) / 2, 4), "lat": round(middle, 4)}


def _area(ring: list[list[float]]) -> float:
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)))


def _crossings(ring: list[list[float]], lat: float) -> list[float]:
    pairs = pairwise(ring)
    return [a[0] + (lat - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) for a, b in pairs if (a[1] > lat) != (b[1] > lat)]


def shards(brokers: Iterable[Any], database: str, username: str, ca_file: str) -> dict[str, dict[str, str]]:
    """Return `[shards.*]` of a mesh.toml: where each region's places are, and who reads them there.

    A region's MongoDB is on its broker's host unless the inventory names other members of its replica set.
    """
    found = {}
    for host in brokers:
        region, port = host["mesh_region"], host.get("mongodb_port", 27017)
        members = host.get("mongodb_replica_members") or [host["mesh_address"]]
        where = ",".join(_member(str(member), port) for member in members)
        name = host.get("mongodb_replica_set") or region
        found[region] = {
            "uri": f"mongodb://{where}/?replicaSet={name}",
            "database": database,
            "username": username,
            "password_credential": f"shard.{region}.password",
            "ca_file": ca_file,
        }
    return found


def peers(addresses: Mapping[str, str], own: str, port: int) -> dict[str, dict[str, str]]:
    """Return `[peers.*]` of a mesh.toml: the brokers of all regions but one's own."""
    return {region: {"endpoint": f"tcp://{host_port(address, port)}"} for region, address in addresses.items()
            if region != own}  # fmt: skip


def host_port(address: str, port: int) -> str:
    """Return `address:port` as URIs and systemd write it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _member(text: str, port: int) -> str:
    """Return a member of a replica set with its port, which it may name itself."""
    if text.startswith("[") or text.count(":") == 1:
        return text if text.rpartition(":")[2].isdigit() else f"{text}:{port}"
    return host_port(text, port)


# -- secrets ----------------------------------------------------------------------------------------------------------


def secret_files(passwords: Mapping[str, str], directory: str) -> list[dict[str, str]]:
    """Return the files that credentials are loaded from, one for the shard of each region."""
    return [{"path": f"{directory}/shard.{region}.password", "mode": "0600", "content": password}
            for region, password in passwords.items()]  # fmt: skip


def named_files(texts: Mapping[str, str], directory: str) -> list[dict[str, str]]:
    """Return the files that hold *texts*, by their names below a directory."""
    return [{"path": f"{directory}/{name}", "mode": "0644", "content": text} for name, text in texts.items()]


def content_digests(files: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the digest of each file's wanted content, as the probe has it of the content that is there."""
    return {each["path"]: hashlib.sha256(each["content"].encode()).hexdigest() for each in files}
