"""Report how a host's MongoDB is, as JSON, and change nothing: one run instead of twenty tasks that look.

The request (argv[1], JSON) has `port`, `configuration` (the directory), `data`, `files` (paths to look at), `names` and
`addresses` (what the certificate has to be for), `ca` (PEM), `renew_days`. Runs with the host's own Python from
standard input, so it needs the standard library only.
"""

import grp
import hashlib
import json
import os
import pwd
import ssl
import stat
import subprocess
import sys

#: Copies that systemd made when the process was started, and the files that they are copies of.
FROZEN = "/run/credentials/mongod.service"
THP = "/sys/kernel/mm/transparent_hugepage"


def run(*words, given=None):
    """Return a program's exit code and output; 127 if it is not there."""
    try:
        done = subprocess.run(
            words, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 127, ""
    return done.returncode, done.stdout.decode(errors="replace")


def text(path):
    """Return a small file's text, nothing if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(65536).strip()
    except OSError:
        return ""


def digest(path):
    """Return a file's digest, nothing if there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def name_of(look_up, number, field):
    try:
        return getattr(look_up(number), field)
    except KeyError:
        return str(number)


def look(path):
    """Return what is at a path: kind, mode, owner, and a file's digest."""
    try:
        found = os.lstat(path)
    except OSError:
        return {"kind": "absent"}
    facts = {
        "mode": "%04o" % stat.S_IMODE(found.st_mode),
        "owner": name_of(pwd.getpwuid, found.st_uid, "pw_name"),
        "group": name_of(grp.getgrgid, found.st_gid, "gr_name"),
    }
    if stat.S_ISDIR(found.st_mode):
        return {"kind": "directory", **facts}
    return {"kind": "file", "sha256": digest(path), **facts}


def exists(user):
    try:
        return bool(pwd.getpwnam(user))
    except KeyError:
        return False


def version():
    """Return the version of the server's package, nothing if it is not installed."""
    shown = run("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", "mongodb-org-server")[1].split()
    return shown[1] if shown[:1] == ["installed"] and len(shown) > 1 else ""


def unit():
    """Return what systemd says of mongod."""
    properties = "ActiveState,MainPID,NeedDaemonReload,UnitFileState"
    lines = run("systemctl", "show", "--property=" + properties, "mongod.service")[1].splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def stale(pid, configuration, port):
    """Return why the running process is not what its files say, by name."""
    files = {
        "mongod.conf": "/etc/mongod.conf",
        "drop-in": "/etc/systemd/system/mongod.service.d/10-mesh.conf",
        "keyfile": configuration + "/keyfile",
        "ca.pem": configuration + "/ca.pem",
    }
    reasons = [name for name, path in files.items() if digest(FROZEN + "/" + name) != digest(path)]
    try:
        if os.readlink("/proc/%d/exe" % pid).endswith("(deleted)"):
            reasons.append("program")
    except OSError:
        pass
    return reasons + served(port)


def served(port):
    """Say whether the certificate that is served has expired: nobody can log in any more to have it exchanged."""
    try:
        pem = ssl.get_server_certificate(("127.0.0.1", port))
    except (OSError, ValueError):
        return []
    return ["certificate"] if run("openssl", "x509", "-noout", "-checkend", "0", given=pem.encode())[0] == 1 else []


def certificate(request):
    """Return why the certificate has to be made anew; nothing if it is right."""
    path = request["configuration"] + "/server.pem"
    if not os.path.exists(path):
        return "is missing"
    seconds = str(int(request["renew_days"]) * 86400)
    if run("openssl", "x509", "-noout", "-checkend", seconds, "-in", path)[0] != 0:
        return "expires within %s days" % request["renew_days"]
    if run("openssl", "verify", "-CAfile", "/dev/stdin", path, given=request["ca"].encode())[0] != 0:
        return "is not of this CA"
    for option, values in (("-checkip", request["addresses"]), ("-checkhost", request["names"])):
        for value in values:
            # The exit code is 0 either way.
            if "does match" not in run("openssl", "x509", "-noout", "-in", path, option, value)[1]:
                return "is not for " + value
    keys = run("openssl", "x509", "-noout", "-pubkey", "-in", path), run("openssl", "pkey", "-pubout", "-in", path)
    return "" if keys[0] == keys[1] else "has another key"


def chosen(path):
    """Return the value in brackets of a file like `always [madvise] never`."""
    return text(path).partition("[")[2].partition("]")[0]


def host(data):
    """Return the settings that MongoDB has an opinion on."""
    while not os.path.exists(data):
        data = os.path.dirname(data)
    return {
        "thp_enabled": chosen(THP + "/enabled"),
        "thp_defrag": chosen(THP + "/defrag"),
        "thp_max_ptes_none": text(THP + "/khugepaged/max_ptes_none"),
        "swappiness": text("/proc/sys/vm/swappiness"),
        "max_map_count": text("/proc/sys/vm/max_map_count"),
        "filesystem": run("stat", "-f", "-c", "%T", data)[1].strip(),
    }


def open_files(pid):
    """Return how many files the process may have open."""
    lines = [line for line in text("/proc/%d/limits" % pid).splitlines() if line.startswith("Max open files")]
    return lines[0].split()[3] if lines else ""


def main():
    """Print the answer."""
    request = json.loads(sys.argv[1])
    state = unit()
    pid = int(state.get("MainPID", "0"))
    running = state.get("ActiveState") == "active" and pid > 0
    answer = {
        "version": version(),
        "user": exists("mongodb"),
        "kernel": os.uname().release,
        "container": run("systemd-detect-virt", "--container")[1].strip() or "none",
        "paths": {path: look(path) for path in request["files"]},
        "running": running,
        "enabled": state.get("UnitFileState") == "enabled",
        "reload": state.get("NeedDaemonReload") == "yes",
        "stale": stale(pid, request["configuration"], int(request["port"])) if running else [],
        "certificate": certificate(request),
        "open_files": open_files(pid) if running else "",
        "host": host(request["data"]),
    }
    print(json.dumps(answer))


main()
