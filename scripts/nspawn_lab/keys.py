"""Keys and names: everything ssh needs to trust the guests, and every host's name."""

import shutil
from pathlib import Path

from nspawn_lab.layout import CONTROL_ADDRESS, Guest, Layout
from nspawn_lab.processes import run

#: `ip netns exec` binds this directory over /etc/ssh, so that plain `ssh root@ne.example.net` works in the control
#: namespace, with the lab's key and with strict host key checking.
SSH_CONFIG = """Host {hosts}
  User root
  IdentityFile {run}/ssh/id_ed25519
  IdentitiesOnly yes
  UserKnownHostsFile /etc/ssh/ssh_known_hosts
  StrictHostKeyChecking yes
  LogLevel ERROR
  ConnectTimeout 10
  ServerAliveInterval 5
  ServerAliveCountMax 3
"""


def private_key(lab: Layout) -> Path:
    """Return the key that opens every guest."""
    return lab.run / "ssh/id_ed25519"


def host_key(lab: Layout, guest: Guest) -> Path:
    """Return where a guest's host key is kept until `down`."""
    return lab.run / "ssh" / f"host_{guest.short}"


def make(lab: Layout, guests: list[Guest]) -> None:
    """Make the keys that are missing, and the control namespace's /etc: hosts, resolv.conf, ssh."""
    (lab.run / "ssh").mkdir(mode=0o700, parents=True, exist_ok=True)
    for key, comment in [(private_key(lab), lab.name)] + [(host_key(lab, g), g.host) for g in guests]:
        if not key.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", key)
    (lab.etc / "ssh").mkdir(parents=True, exist_ok=True)
    _write(lab.etc / "hosts", hosts_file(guests))
    _write(lab.etc / "resolv.conf", "# The lab has no name server; names are in /etc/hosts.\n")
    known = (f"{g.host},{g.short},{g.address} {_public(host_key(lab, g))}\n" for g in guests)
    _write(lab.etc / "ssh/ssh_known_hosts", "".join(known))
    names = " ".join(name for g in guests for name in (g.host, g.short, g.address))
    _write(lab.etc / "ssh/ssh_config", SSH_CONFIG.format(hosts=names, run=lab.run))


def hosts_file(guests: list[Guest]) -> str:
    """Return an /etc/hosts with every host of the lab."""
    lines = ["127.0.0.1 localhost", f"{CONTROL_ADDRESS} control.example.net control"]
    return "".join(f"{line}\n" for line in [*lines, *(f"{g.address} {g.host} {g.short}" for g in guests)])


def install(lab: Layout, guest: Guest, root: Path) -> None:
    """Give a guest its host key, and the lab's key the right to log in."""
    for suffix, mode in (("", 0o600), (".pub", 0o644)):
        target = root / f"etc/ssh/ssh_host_ed25519_key{suffix}"
        shutil.copyfile(f"{host_key(lab, guest)}{suffix}", target)
        target.chmod(mode)
    authorized = root / "root/.ssh/authorized_keys"
    authorized.write_text(Path(f"{private_key(lab)}.pub").read_text(encoding="ascii"), encoding="ascii")
    authorized.chmod(0o600)


def _public(key: Path) -> str:
    return " ".join(Path(f"{key}.pub").read_text(encoding="ascii").split()[:2])


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
