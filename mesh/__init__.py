"""A regional broker mesh that answers location requests.

The public names are loaded on first use: a broker imports this package too, and must not pay for shapely or numpy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.client.aio import AsyncClient
    from mesh.client.sync import Client
    from mesh.model import Page, Place

__all__ = ["AsyncClient", "Client", "Page", "Place"]

_HOME = {"AsyncClient": "mesh.client.aio", "Client": "mesh.client.sync", "Page": "mesh.model", "Place": "mesh.model"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mesh' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - only when asked

    return getattr(import_module(_HOME[name]), name)
