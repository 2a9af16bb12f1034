"""What the role `mongodb` decides on the control node, from what it found on a host and what the inventory says."""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

#: Major versions in order; MongoDB upgrades from one to the next, and never back.
_MAJORS = ("4.4", "5.0", "6.0", "7.0", "8.0")
#: The first for which the vendor has packages for Debian 12.
_FIRST_ON_DEBIAN_12 = (7, 0)
#: Kernels on which 8.x dies after half a minute: its allocator breaks the contract of rseq (SERVER-121912).
_BROKEN_KERNELS = ((6, 19, 0), (7, 0, 14))
_KEYFILE = re.compile(r"[A-Za-z0-9+/=\s]{6,1024}")
_MEMORY = re.compile(r"infinity|[1-9][0-9]*[KMGT]?")
_SET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SHORTEST_PASSWORD = 16
_SMALLEST_CACHE_GB = 0.25
_OPEN_FILES = 64_000
_MAP_COUNT = 128_000
#: A CA that ends sooner than this is a problem now: everything it signed ends with it.
_AUTHORITY_DAYS = 60


class FilterModule:
    """The filters, by the names that templates use."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {
            "mongodb_members": members,
            "mongodb_series": series,
            "mongodb_faults": faults,
            "mongodb_advice": advice,
            "mongodb_tuning": tuning,
            "mongodb_outdated": outdated,
        }


def series(version: str) -> str:
    """Return the series of a version: 8.0 of 8.0.4."""
    return ".".join(str(version).split(".")[:2])


def members(brokers: Iterable[Mapping[str, Any]], region: str, port: int) -> list[str]:
    """Return `host:port` of the members of a region's replica set, the one that initiates it first.

    As the region's broker host has them; if it says nothing, it is the only one.
    """
    for host in brokers:
        if host.get("mesh_region") == region:
            listed = host.get("mongodb_replica_members") or [host["mesh_address"]]
            return [_with_port(str(member), host.get("mongodb_port") or port) for member in listed]
    return []


def outdated(installed: str, wanted: str) -> bool:
    """Whether another version than the one that is there has to be installed; a series is content with any of it."""
    return not f"{installed}.".startswith(f"{wanted}.")


# -- what must not go on ----------------------------------------------------------------------------------------------


def faults(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return what forbids to go on with a host, each as a sentence without a secret in it."""
    version = str(wanted["version"])
    if not re.fullmatch(r"[0-9]+\.[0-9]+(\.[0-9]+)?", version):
        return [f"mongodb_version {version!r} is no version; write a series like 8.0, or a release like 8.0.4."]
    return [
        *_version_faults(found, wanted, series(version)),
        *_server_faults(wanted),
        *_member_faults(wanted),
        *_secret_faults(wanted["secrets"]),
    ]


def _version_faults(found: Mapping[str, Any], wanted: Mapping[str, Any], want: str) -> list[str]:
    said = []
    if wanted["source"] == "vendor" and _numbers(want) < _FIRST_ON_DEBIAN_12:
        said.append(f"the vendor has no MongoDB {want} for Debian 12; take 7.0 or later, or set mongodb_source.")
    if wanted["source"] == "package" and not wanted["package_files"]:
        said.append("mongodb_source is package, and mongodb_package_files is empty.")
    if _numbers(want)[0] == 8 and _BROKEN_KERNELS[0] <= _kernel(found["kernel"]) < _BROKEN_KERNELS[1]:
        cause = "SERVER-121912, Linux 6.19 up to 7.0.13"
        said.append(f"MongoDB {want} dies on its kernel {found['kernel']} ({cause}); take another kernel, or 7.0.")
    have = series(found["version"])
    if have and have != want and not _next(have, want):
        said.append(f"MongoDB {have} is installed and goes to the next major version only, not to {want}.")
    return said


def _next(have: str, want: str) -> bool:
    """Whether one series may follow another: the next major version, or a later one of the same."""
    if _numbers(want)[0] == _numbers(have)[0]:
        return _numbers(want) > _numbers(have)
    if have in _MAJORS and want in _MAJORS:
        return _MAJORS.index(want) == _MAJORS.index(have) + 1
    return _numbers(want)[0] == _numbers(have)[0] + 1


def _server_faults(wanted: Mapping[str, Any]) -> list[str]:
    said = []
    if not 0 < int(wanted["port"]) < 65_536:
        said.append(f"mongodb_port {wanted['port']} is no port.")
    if float(wanted["cache_gb"]) < _SMALLEST_CACHE_GB:
        said.append(f"mongodb_cache_gb {wanted['cache_gb']} is less than {_SMALLEST_CACHE_GB}, which is the least.")
    if not _MEMORY.fullmatch(str(wanted["memory_max"])):
        said.append(f"mongodb_memory_max {wanted['memory_max']!r} is no size; write 2560M, 3G or infinity.")
    said += [f"{name} {path!r} is no plain absolute path." for name, path in wanted["paths"].items()
             if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", str(path))]  # fmt: skip
    return said


def _member_faults(wanted: Mapping[str, Any]) -> list[str]:
    said = []
    if not _SET.fullmatch(str(wanted["replica_set"])):
        said.append(f"mongodb_replica_set {wanted['replica_set']!r} is no name for a replica set.")
    listed = list(wanted["members"])
    said += [f"{member!r} of mongodb_replica_members is no address." for member in listed if not _is_address(member)]
    if len(set(listed)) != len(listed):
        said.append("mongodb_replica_members names a member twice.")
    if len(listed) % 2 == 0:
        said.append(
            f"mongodb_replica_members has {len(listed)} members; an even number elects nobody when one half is gone."
        )
    return said


def _secret_faults(secrets: Mapping[str, Any]) -> list[str]:
    said = []
    if not all(_KEYFILE.fullmatch(key) for key in _keys(str(secrets["keyfile"]))):
        said.append("mongodb_keyfile is not 6 to 1024 characters of base64, nor a list of such.")
    passwords = {name: value for name, value in secrets.items() if name.endswith("_password")}
    said += [f"mongodb_{name} has less than {_SHORTEST_PASSWORD} characters." for name, value in passwords.items()
             if len(str(value)) < _SHORTEST_PASSWORD]  # fmt: skip
    if len(set(passwords.values())) != len(passwords):
        said.append("two MongoDB accounts have the same password.")
    fault = _authority_fault(str(secrets["ca_cert"]), str(secrets["ca_key"]))
    return [*said, fault] if fault else said


def _keys(keyfile: str) -> list[str]:
    """Return the keys of a keyfile; while one takes over from another, it is a YAML list of both."""
    listed = [line[2:] for line in keyfile.splitlines() if line.startswith("- ")]
    return listed or [keyfile]


def _authority_fault(certificate: str, key: str) -> str:
    """Return what is wrong with the CA; the first certificate is the one that signs, others may follow it."""
    from cryptography import x509  # noqa: PLC0415 - comes with ansible-core; the other filters work without it
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        authority = x509.load_pem_x509_certificate(certificate.encode())
        signer = load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError):
        return "mesh_ca_cert and mesh_ca_key are not a certificate and a key without a password, in PEM."
    if authority.public_key() != signer.public_key():
        return "mesh_ca_key is not the key of mesh_ca_cert."
    if authority.not_valid_after_utc < datetime.now(UTC) + timedelta(days=_AUTHORITY_DAYS):
        return f"mesh_ca_cert ends on {authority.not_valid_after_utc:%Y-%m-%d}; scripts/secrets makes another."
    return ""


# -- what could be better ---------------------------------------------------------------------------------------------


def advice(found: Mapping[str, Any], version: str) -> list[str]:
    """Return what of a host is not as this version of MongoDB wants it; nothing for a container, which cannot."""
    if found["container"] != "none":
        return []
    host = found["host"]
    said = [f"{name} is {host[key]!r} and should be {value!r}." for key, (name, value) in _huge_pages(version).items()
            if host[key] != value]  # fmt: skip
    if _number(host["swappiness"]) > 1:
        said.append(f"vm.swappiness is {host['swappiness']} and should be 1.")
    if _number(host["max_map_count"]) < _MAP_COUNT:
        said.append(f"vm.max_map_count is {host['max_map_count']} and should be {_MAP_COUNT}.")
    if host["filesystem"] != "xfs":
        said.append(f"the data is on {host['filesystem']}; WiredTiger stalls less on xfs.")
    if found["open_files"] and _number(found["open_files"]) < _OPEN_FILES:
        said.append(f"mongod may open {found['open_files']} files and should {_OPEN_FILES}.")
    return said


def tuning(version: str) -> list[dict[str, str]]:
    """Return the files that set this at boot."""
    lines = [f"w {path} - - - - {value}" for path, value in _huge_pages(version).values()]
    texts = {
        "/etc/sysctl.d/60-mongodb.conf": f"vm.swappiness = 1\nvm.max_map_count = {_MAP_COUNT}\n",
        "/etc/tmpfiles.d/60-mongodb.conf": "\n".join(lines) + "\n",
    }
    head = "# Managed by Ansible; changes made here are lost. As MongoDB wants it.\n"
    return [{"path": path, "mode": "0644", "content": head + text} for path, text in texts.items()]


def _huge_pages(version: str) -> dict[str, tuple[str, str]]:
    """Return what transparent huge pages should be: off up to 7.0, and on for the allocator of 8.0."""
    root = "/sys/kernel/mm/transparent_hugepage"
    if _numbers(series(version)) < (8, 0):
        return {"thp_enabled": (f"{root}/enabled", "never"), "thp_defrag": (f"{root}/defrag", "never")}
    return {
        "thp_enabled": (f"{root}/enabled", "always"),
        "thp_defrag": (f"{root}/defrag", "defer+madvise"),
        "thp_max_ptes_none": (f"{root}/khugepaged/max_ptes_none", "0"),
    }


# -- inside -----------------------------------------------------------------------------------------------------------


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _kernel(release: str) -> tuple[int, int, int]:
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)


def _number(text: str) -> int:
    return int(text) if str(text).isdigit() else 0


def _with_port(text: str, port: int) -> str:
    """Return a member with its port, which it may name itself."""
    if text.startswith("[") or text.count(":") == 1:
        return text if text.rpartition(":")[2].isdigit() else f"{text}:{port}"
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def _is_address(member: str) -> bool:
    try:
        ipaddress.ip_address(member.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    return True
