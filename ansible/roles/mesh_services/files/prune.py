"""Remove releases and virtual environments that nobody needs; print what was removed, one path a line.

Kept are the current and the previous release, those that a running process says it is of, and the newest. Usage:
prune.py HOME COUNT. A third argument stands in for /proc, for the tests.
"""

import os
import re
import shutil
import subprocess
import sys


def running(proc):
    """Return the releases that our services say they run, and the environments that any process was started from."""
    words = ("systemctl", "show", "--property=StatusText", "mesh-broker.service", "mesh-worker@*.service")
    try:
        shown = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout.decode()
    except OSError:
        shown = ""
    lines = []
    for pid in filter(str.isdigit, os.listdir(proc)):
        try:
            with open(f"{proc}/{pid}/cmdline", "rb") as file:
                lines.append(file.read().decode(errors="replace"))
        except OSError:
            continue
    return set(re.findall(r"release=(\S+)", shown)), set(re.findall(r"/venvs/([0-9a-f]+)/", "\n".join(lines)))


def linked(path):
    """Return the last part of what a link points to."""
    return os.path.basename(os.readlink(path)) if os.path.islink(path) else ""


def age(path):
    """Return when a directory was declared complete; never, for one that was not."""
    try:
        return os.path.getmtime(path + "/.complete")
    except OSError:
        return 0.0


def remove(directory, kept):
    """Remove what is not kept, and return what that was."""
    surplus = sorted(set(os.listdir(directory)) - kept)
    for name in surplus:
        shutil.rmtree(f"{directory}/{name}")
    return [f"{directory}/{name}" for name in surplus]


def main():
    """Remove, and say so."""
    home, count = sys.argv[1], int(sys.argv[2])
    proc = sys.argv[3] if len(sys.argv) > 3 else "/proc"
    releases, venvs = home + "/releases", home + "/venvs"
    said, started = running(proc)
    kept = {linked(home + "/current"), linked(home + "/previous")} | said
    newest = sorted(os.listdir(releases), key=lambda name: age(f"{releases}/{name}"), reverse=True)
    for name in newest:
        if len(kept & set(newest)) < count and age(f"{releases}/{name}"):
            kept.add(name)
    removed = remove(releases, kept)
    needed = {linked(f"{releases}/{name}/venv") for name in os.listdir(releases)}
    for path in removed + remove(venvs, needed | started):
        print(path)


main()
