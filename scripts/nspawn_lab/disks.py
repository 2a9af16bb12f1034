"""What guests write: an overlay above the shared image, which can be put aside as a further layer and come back."""

import secrets
import shutil
from pathlib import Path

from nspawn_lab import keys
from nspawn_lab.layout import Guest, LabError, Layout
from nspawn_lab.processes import run


def is_mounted(path: Path) -> bool:
    """Tell whether something is mounted exactly here; other than os.path.ismount, also where the device is the same."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return any(line.split()[4] == str(path) for line in lines)


def mount(lab: Layout, guest: Guest, image: Path, guests: list[Guest]) -> None:
    """Mount a guest's file system, a fresh one unless it is mounted already."""
    if is_mounted(lab.root(guest)):
        return
    # Not mounted means left behind by a machine that went down: the lab that knew this guest is no more.
    shutil.rmtree(lab.var / guest.short, ignore_errors=True)
    (lab.var / guest.short / "saved").mkdir(parents=True)
    (lab.var / guest.short / "image").symlink_to(image)
    _mount(lab, guest)
    _personalise(lab, guest, guests)


def saved(lab: Layout, guest: Guest) -> list[str]:
    """Return the names under which states of a guest were put aside, oldest first."""
    directory = lab.var / guest.short / "saved"
    return [entry.name.partition("-")[2] for entry in sorted(directory.iterdir())] if directory.exists() else []


def save(lab: Layout, guest: Guest, name: str) -> None:
    """Put what a guest that is off has written aside, as a layer that it never writes to again."""
    names = saved(lab, guest)
    if name in names:
        raise LabError(f"{guest.host} has a saved state {name!r} already")
    run("umount", lab.root(guest))
    (lab.var / guest.short / "upper").rename(lab.var / guest.short / f"saved/{len(names):03}-{name}")
    _mount(lab, guest)


def require(lab: Layout, guest: Guest, name: str) -> None:
    """Raise LabError unless a guest has a saved state of this name."""
    if name not in (names := saved(lab, guest)):
        raise LabError(f"{guest.host} has no saved state {name!r}; there is {', '.join(names) or 'none'}")


def restore(lab: Layout, guest: Guest, name: str) -> None:
    """Give a guest that is off the disk it had at `save`, and forget what was saved later."""
    names = saved(lab, guest)
    require(lab, guest, name)
    run("umount", lab.root(guest))
    for number, later in enumerate(names):
        if number > names.index(name):
            shutil.rmtree(lab.var / guest.short / f"saved/{number:03}-{later}")
    _mount(lab, guest)


def _mount(lab: Layout, guest: Guest) -> None:
    root, var = lab.root(guest), lab.var / guest.short
    root.mkdir(parents=True, exist_ok=True)
    for directory in (var / "upper", var / "work"):
        # A workdir that was mounted with `volatile` is refused a second time, unless it is a new one.
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    layers = [*sorted((var / "saved").iterdir(), reverse=True), (var / "image").resolve()]
    lower = ":".join(str(layer) for layer in layers)
    # volatile: guests' fsync costs nothing. Their data has to survive a guest's power cut, not the machine's.
    options = f"lowerdir={lower},upperdir={var}/upper,workdir={var}/work,volatile"
    done = run("mount", "-t", "overlay", f"{lab.name}.{guest.short}", "-o", options, root, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason"])[0]
        raise LabError(f"cannot mount an overlay in {var} ({said}); inside a container, make that a volume: {lab.var}")


def _personalise(lab: Layout, guest: Guest, guests: list[Guest]) -> None:
    root = lab.root(guest)
    (root / "etc/hostname").write_text(f"{guest.short}\n", encoding="ascii")
    (root / "etc/hosts").write_text(keys.hosts_file(guests), encoding="ascii")
    # An empty machine-id would make systemd treat each guest as a first boot and enable every preset.
    (root / "etc/machine-id").write_text(f"{secrets.token_hex(16)}\n", encoding="ascii")
    keys.install(lab, guest, root)
