"""The region map, fetched once from a broker and kept on disk by its digest."""

import contextlib
import os
import tempfile
from pathlib import Path

from mesh.errors import ConfigError
from mesh.regions import RegionMap


def default_directory() -> Path:
    """Return `$XDG_CACHE_HOME/mesh`, which is `~/.cache/mesh` where nobody said otherwise."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and must be ignored.
    return (Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()) / "mesh"


class MapCache:
    """Region maps as files; a cache that cannot be read or written is as good as none and never an error."""

    def __init__(self, directory: str | Path | None = None) -> None:
        self._directory = Path(directory) if directory is not None else default_directory()

    def path(self, digest: str) -> Path:
        """Return where the map with this hex digest is kept."""
        return self._directory / f"regions-{digest}.geojson"

    def load(self, digest: str) -> RegionMap | None:
        """Return the map with this hex digest, None if it is not here or not what its name says."""
        if len(digest) != 8 or not set(digest) <= set("0123456789abcdef"):  # it came over the wire and names a file
            return None
        with contextlib.suppress(OSError, ConfigError):
            found = RegionMap.from_bytes(self.path(digest).read_bytes())
            if found.digest.hex() == digest:
                return found
        return None

    def save(self, regions: RegionMap) -> None:
        """Keep a map; readers see all of it or nothing."""
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._directory, prefix=".regions-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(regions.data)
                Path(name).replace(self.path(regions.digest.hex()))
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise
