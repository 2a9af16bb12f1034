"""Secrets, as systemd hands them over: files below $CREDENTIALS_DIRECTORY that only this service can read.

They never stand in TOML, in arguments or in the environment: those show up in `ps`, in the journal and in children.
Outside of systemd, $MESH_CREDENTIALS_DIRECTORY names a directory with the same files.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from mesh.errors import ConfigError

SYSTEMD, ELSEWHERE = "CREDENTIALS_DIRECTORY", "MESH_CREDENTIALS_DIRECTORY"
#: What a name may be: a file's, and nothing that leaves the directory.
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
_NONE = "none"


def read(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return a secret without its last line end; raises `ConfigError` that says what to do."""
    if not NAME.fullmatch(name):
        hint = "letters, digits, dot, dash and underscore"
        raise ConfigError(f"{name!r} is no credential's name", field="credential", hint=hint)
    directory, hint = _directory(name, environ)
    if directory is None:
        raise ConfigError(f"no directory to read {name} from", field="credential", hint=hint)
    secret = _content(directory / name, hint)
    if not secret:
        raise ConfigError("is empty", file=str(directory / name), field="credential", hint="write the secret into it")
    return secret


def fingerprint(environ: Mapping[str, str] = os.environ) -> str:
    """Return what the deployment calls the state we were started in, `none` outside of a deployment.

    It covers release, units and secrets. systemd copies credentials when it starts a process, so this stays what it
    was at the start, and whoever deploys sees by it who still has to be restarted.
    """
    try:
        text = read("fingerprint", environ)
    except ConfigError:
        return _NONE
    return text if re.fullmatch(r"[0-9a-f]{1,64}", text) else _NONE


def _directory(name: str, environ: Mapping[str, str]) -> tuple[Path | None, str]:
    """Return where to look, and what to do if it is not there."""
    if environ.get(SYSTEMD):
        return Path(environ[SYSTEMD]), f"the unit needs LoadCredential={name}:/etc/mesh/credentials/{name}"
    if environ.get(ELSEWHERE):
        return Path(environ[ELSEWHERE]), f"put it there, or point {ELSEWHERE} to where it is"
    return None, f"start it by its unit, or set {ELSEWHERE} to a directory with a file of that name"


def _content(path: Path, hint: str) -> str:
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        message = f"cannot be read: {(error.strerror or str(error)).lower()}"
        raise ConfigError(message, file=str(path), field="credential", hint=hint) from None
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8", file=str(path), field="credential") from None
    return text.removesuffix("\n").removesuffix("\r")
