"""scripts/lab: the commands."""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from nspawn_lab import control, disks, guests, image, lifecycle, network, repository
from nspawn_lab.layout import INVENTORY, ROOT, Guest, LabError, Layout, find, layout, read_guests

ABOUT = """\
Bare Debian 12 hosts on this machine, to deploy the mesh on and to break it.

  scripts/lab up                  make and boot the hosts of inventory/lab.yml (first time: builds the image)
  scripts/lab deploy              run ansible/site.yml against them; arguments go to ansible-playbook
  scripts/lab status              what runs, and what failed in it
  scripts/lab ssh ne              log in to a host; `ssh ne journalctl -u mesh-broker` runs a command
  scripts/lab exec -- mesh-client --broker ne.example.net status
                                  run a command beside the hosts, where their names and addresses mean something
  scripts/lab poweroff ne         and `start ne`, `reboot ne`, `cut ne` (no shutdown, as if the plug was pulled)
  scripts/lab link ne down        pull a host's cable; `up` plugs it in; `link ne delay 40ms loss 1%` makes it a bad one
  scripts/lab save NAME           remember the state of all hosts; `restore NAME` comes back to it
  scripts/lab down                remove everything, also after a crash
  scripts/lab clean               remove cached images that no lab uses
"""
NOTES = """\
Hosts reach each other, 10.77.0.1 (this machine's end, where an apt repository is served on port 8077) and nothing else.
$MESH_LAB names another lab, whose hosts have the same addresses in networks of their own: two can run side by side.
Exit codes: 0 done, 1 failure, 2 usage; `deploy`, `ssh` and `exec` leave with the code of what they ran.
"""


def main() -> NoReturn:
    """Run a command of the lab."""
    arguments = parsed(sys.argv[1:])
    try:
        lab = layout()
        if (reason := lifecycle.missing()) and arguments.command != "status":
            raise LabError(reason)  # noqa: TRY301 - one place prints errors
        sys.exit(_COMMANDS[arguments.command](lab, arguments) or 0)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit("lab: stopped; `scripts/lab down` removes what there is")


def parsed(words: list[str]) -> argparse.Namespace:
    """Return the command line; what stands behind a command that runs another program is that program's."""
    command = next((number for number, word in enumerate(words) if word in _WITH_WORDS - _WITH_HOST), len(words))
    following = words[command + 1 : command + 2]
    if following and following[0] not in {"-h", "--help", "--"}:  # argparse takes a first option for its own
        words = [*words[: command + 1], "--", *words[command + 1 :]]
    arguments = _parser().parse_args(words)
    if arguments.command in _WITH_WORDS and arguments.words[:1] == ["--"]:
        del arguments.words[0]
    return arguments


def _up(lab: Layout, arguments: argparse.Namespace) -> None:
    """Make what is missing and boot what is off; what runs is left alone."""
    with lifecycle.alone(lab):
        lifecycle.up(lab, read_guests(arguments.inventory), _say, arguments.mirror)


def _down(lab: Layout, _: argparse.Namespace) -> int:
    """Stop and remove every host, with everything in it."""
    started = time.monotonic()
    with lifecycle.alone(lab):
        left = lifecycle.down(lab)
    for item in left:
        _say(f"left behind: {item}")
    _say(f"{lab.name} is {'not quite ' if left else ''}gone after {time.monotonic() - started:.1f} s")
    return bool(left)


def _deploy(lab: Layout, arguments: argparse.Namespace) -> int:
    """Build the wheelhouse where it is missing, then run ansible/site.yml against the hosts."""
    control.prepare_playbook(lab)
    os.chdir(ROOT / "ansible")
    return _replace(lab, arguments, ["ansible-playbook", "site.yml", *arguments.words])


def _exec(lab: Layout, arguments: argparse.Namespace) -> int:
    """Run a program beside the hosts; without one, a shell."""
    return _replace(lab, arguments, arguments.words or [os.environ.get("SHELL", "/bin/sh")])


def _ssh(lab: Layout, arguments: argparse.Namespace) -> int:
    """Log in to a host, or run a command in it."""
    return _replace(lab, arguments, ["ssh", f"root@{_guest(arguments).host}", *arguments.words])


def _status(lab: Layout, arguments: argparse.Namespace) -> int:
    """Show what runs, and what failed in it."""
    hosts = [_describe(lab, guest) for guest in read_guests(arguments.inventory)]
    if arguments.json:
        print(json.dumps({"lab": lab.name, "image": str(image.path()), "repository": repository.URL, "hosts": hosts}))
        return 0
    for host in hosts:
        cable = "" if host["link"] or host["state"] == "off" else "no link"
        failed = " ".join(["failed:", *host["failed"]] if host["failed"] else [])
        print(f"{host['host']:<22}{host['address']:<14}{host['state']:<10}{cable:<8}{failed}".rstrip())
    return 0


def _describe(lab: Layout, guest: Guest) -> dict[str, Any]:
    state = guests.state(lab, guest)
    failed = guests.failed_units(lab, guest) if state == "degraded" else []
    return {
        "host": guest.host,
        "address": guest.address,
        "region": guest.region,
        "state": state,
        "failed": failed,
        "link": network.link_is_up(lab, guest),
    }


def _start(lab: Layout, arguments: argparse.Namespace) -> None:
    """Boot a host that is off and wait until it is up."""
    guest = _guest(arguments)
    if not disks.is_mounted(lab.root(guest)):
        raise LabError(f"{guest.host} has never been up; run `scripts/lab up`")
    lifecycle.start_all(lab, [guest], _say)


def _poweroff(lab: Layout, arguments: argparse.Namespace) -> None:
    """Shut a host down in an orderly way; what it wrote stays."""
    guests.power_off(lab, _guest(arguments))


def _cut(lab: Layout, arguments: argparse.Namespace) -> None:
    """Take a host off the power, without a shutdown; what it wrote stays."""
    guests.cut_power(lab, _guest(arguments).short)


def _reboot(lab: Layout, arguments: argparse.Namespace) -> None:
    """Shut a host down and boot it."""
    guests.power_off(lab, _guest(arguments))
    _start(lab, arguments)


def _link(lab: Layout, arguments: argparse.Namespace) -> None:
    """Pull a host's cable (down), plug it in (up), or make it bad in tc netem's words (delay 40ms loss 1%)."""
    guest = _guest(arguments)
    words = arguments.words or ["up"]
    network.shape(lab, guest, [] if words[0] in {"up", "down"} else words)
    network.set_link(lab, guest, up=words[0] != "down")


def _save(lab: Layout, arguments: argparse.Namespace) -> None:
    """Reboot every host and remember the state of all disks under a name, to come back to with `restore`."""
    with lifecycle.alone(lab):
        lifecycle.save(lab, read_guests(arguments.inventory), arguments.name, _say)


def _restore(lab: Layout, arguments: argparse.Namespace) -> None:
    """Boot every host with the disk that it had when `save` was called with this name."""
    with lifecycle.alone(lab):
        lifecycle.restore(lab, read_guests(arguments.inventory), arguments.name, _say)


def _clean(_: Layout, __: argparse.Namespace) -> None:
    """Remove cached images that no lab uses."""
    for tree in image.clean(lifecycle.image_in_use):
        _say(f"removed {tree}")


_COMMANDS: dict[str, Callable[[Layout, argparse.Namespace], int | None]] = {
    "up": _up,
    "down": _down,
    "deploy": _deploy,
    "status": _status,
    "ssh": _ssh,
    "exec": _exec,
    "start": _start,
    "poweroff": _poweroff,
    "reboot": _reboot,
    "cut": _cut,
    "link": _link,
    "save": _save,
    "restore": _restore,
    "clean": _clean,
}
_WITH_HOST = {"ssh", "start", "poweroff", "reboot", "cut", "link"}
_WITH_WORDS = {"deploy", "ssh", "exec", "link"}


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("lab", description=ABOUT, epilog=NOTES, formatter_class=form)
    parser.add_argument("-i", "--inventory", type=Path, default=INVENTORY, help="hosts [inventory/lab.yml]")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help="as above")
    for name, function in _COMMANDS.items():
        command = commands.add_parser(name, description=function.__doc__)
        if name in _WITH_HOST:
            command.add_argument("host", help="ne, ne.example.net or its address")
        if name in _WITH_WORDS:
            command.add_argument("words", nargs=argparse.REMAINDER, help="passed on as they are")
        if name in {"save", "restore"}:
            command.add_argument("name", type=_word, help="letters, digits and -")
        if name == "up":
            command.add_argument("--mirror", default=image.MIRROR, help=f"Debian mirror [{image.MIRROR}]")
        if name == "status":
            command.add_argument("--json", action="store_true", help="for programs")
    return parser


def _guest(arguments: argparse.Namespace) -> Guest:
    return find(read_guests(arguments.inventory), arguments.host)


def _replace(lab: Layout, arguments: argparse.Namespace, words: list[str]) -> int:
    words, environment = control.command(lab, words, arguments.inventory)
    sys.stdout.flush()
    os.execvpe(words[0], words, environment)


def _word(text: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} has something else than letters, digits and -")
    return text


def _say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)
