"""Load the parts of ansible/ and scripts/ that are no package: filters, modules and programs without a suffix."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = ROOT / "ansible"
ROLES = sorted(path.name for path in (ANSIBLE / "roles").iterdir())


def load(path: str) -> ModuleType:
    """Return a file of this repository as a module."""
    loader = SourceFileLoader("loaded_" + path.replace("/", "_").replace(".", "_"), str(ROOT / path))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    sys.modules[loader.name] = module
    # A test must not leave scripts/wheelhousec beside the program.
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module
