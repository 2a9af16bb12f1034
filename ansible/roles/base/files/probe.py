"""Report what a host is and has, as JSON, and change nothing: one run instead of thirty tasks that look.

The request (argv[1], JSON) names what to look at: `home`, `user`, `packages`, `space`, `globs`, `units`, `firewall`,
`journald`. Runs with the host's own Python from standard input, so it needs the standard library only, and no newer
syntax than 3.6 has: a host with an old Python is to be refused with a sentence, not with a SyntaxError.
"""

import fnmatch
import glob
import grp
import hashlib
import importlib.util
import json
import os
import platform
import pwd
import stat
import subprocess
import sys
import time

UNIT_PROPERTIES = ("Id", "LoadState", "ActiveState", "StatusText", "NeedDaemonReload")


def run(*words):
    """Return a program's output; nothing if it is not there or fails."""
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def look(path):
    """Return what is at a path: kind, mode, owner, and the digest of a file or the target of a link."""
    try:
        found = os.lstat(path)
    except OSError:
        return {"kind": "absent"}
    if stat.S_ISLNK(found.st_mode):
        return {"kind": "link", "target": os.readlink(path)}
    facts = {"mode": "%04o" % stat.S_IMODE(found.st_mode), "owner": owner(found.st_uid), "group": group(found.st_gid)}
    if stat.S_ISDIR(found.st_mode):
        return {"kind": "directory", **facts}
    with open(path, "rb") as file:
        return {"kind": "file", "sha256": hashlib.sha256(file.read()).hexdigest(), **facts}


def owner(uid):
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group(gid):
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def user_exists(name):
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False


def free_mb(path):
    """Return the free MiB where a path is, or will be."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize // 2**20


def missing(packages):
    """Return those Debian packages that are not installed."""
    shown = run("dpkg-query", "-W", "-f", "${binary:Package} ${db:Status-Status}\n")
    installed = {line.split()[0].partition(":")[0] for line in shown.splitlines() if line.endswith(" installed")}
    return [name for name in packages if name not in installed]


def units(names):
    """Return the state of each loaded unit; patterns match those that systemd has loaded."""
    shown = run("systemctl", "show", "--property=" + ",".join(UNIT_PROPERTIES), *names) if names else ""
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.split("\n\n") if block.strip()]
    return {block["Id"]: block for block in blocks if block.get("Id")}


def listening():
    """Return the addresses TCP sockets listen at."""
    rows = run("ss", "-Hltn").splitlines()
    return sorted({row.split()[3] for row in rows if len(row.split()) > 3})


def firewall(path):
    """Say whether the kernel's table is the file's: `same`, `other`, `absent`, or `unknown`.

    The file is loaded into an empty network namespace of its own, and both are listed: what a hand changed, and what a
    lost handler never loaded, show up alike.
    """
    loaded = run("nft", "-s", "list", "table", "inet", "mesh")
    if not loaded:
        return "absent"
    script = 'nft -f "$1" && nft -s list table inet mesh'
    written = run("unshare", "--net", "sh", "-c", script, "sh", path) if os.path.exists(path) else ""
    return "unknown" if not written else "same" if written == loaded else "other"


def includes(path, conf):
    """Say whether a file is among those that nftables.service loads at boot."""
    try:
        with open(conf, encoding="utf-8") as file:
            lines = [line.split('"') for line in file if line.strip().startswith("include")]
    except OSError:
        return False
    return any(len(parts) > 1 and fnmatch.fnmatch(path, parts[1]) for parts in lines)


def stale_journald(path):
    """Say whether journald was started before its limits were last written."""
    since = run("systemctl", "show", "--timestamp=unix", "--property=ActiveEnterTimestamp", "systemd-journald")
    started = since.strip().rpartition("@")[2]
    return os.path.exists(path) and started.isdigit() and int(started) < int(os.path.getmtime(path))


def enabled():
    """Return our units that are started at boot."""
    return sorted({os.path.basename(path) for path in glob.glob("/etc/systemd/system/*.wants/mesh*")})


def complete(pattern):
    """Return the names of the finished directories below a path."""
    return sorted(os.path.basename(os.path.dirname(path)) for path in glob.glob(pattern + "/*/.complete"))


def text(path):
    """Return a small file's text."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(4096).strip()
    except OSError:
        return ""


def release_of_system():
    """Return /etc/os-release."""
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            return dict(line.rstrip().replace('"', "").split("=", 1) for line in file if "=" in line)
    except OSError:
        return {}


def main():
    """Print the answer."""
    request = json.loads(sys.argv[1])
    home = request["home"]
    system = release_of_system()
    answer = {
        "time": time.time(),
        "kernel": platform.release(),
        "distribution": "%s %s" % (system.get("ID", "?"), system.get("VERSION_ID", "?")),
        "python": platform.python_version(),
        "venv": importlib.util.find_spec("ensurepip") is not None,
        "init": run("ps", "-o", "comm=", "-p", "1").strip() or os.path.basename(os.readlink("/proc/1/exe")),
        "container": run("systemd-detect-virt", "--container").strip() or "none",
        "synchronized": run("timedatectl", "show", "--property=NTPSynchronized").strip() == "NTPSynchronized=yes",
        "free_mb": {path: free_mb(path) for path in request["space"]},
        "missing_packages": missing(request["packages"]),
        "user": user_exists(request["user"]),
        "paths": {path: look(path) for pattern in request["globs"] for path in glob.glob(pattern)},
        "units": units(request["units"]),
        "enabled": enabled(),
        "listening": listening(),
        "firewall": firewall(request["firewall"]),
        "firewall_included": includes(request["firewall"], "/etc/nftables.conf"),
        "firewall_enabled": os.path.exists("/etc/systemd/system/sysinit.target.wants/nftables.service"),
        "stale_journald": stale_journald(request["journald"]),
        "rollout": text(home + "/rollout"),
        "releases": complete(home + "/releases"),
        "venvs": complete(home + "/venvs"),
    }
    print(json.dumps(answer))


main()
