"""The answers that a scan over all places gives: what the tour holds the mesh against."""

from collections.abc import Sequence

import numpy as np
import shapely

from mesh.geo import distances
from mesh.model import Draft


class Scan:
    """All places of the mesh, in memory."""

    def __init__(self, places: Sequence[Draft]) -> None:
        self._ids = np.array([place.id for place in places])
        self._lons = np.array([place.lon for place in places])
        self._lats = np.array([place.lat for place in places])
        self._states = np.array([str(place.properties.get("state")) for place in places])

    def nearest(self, lon: float, lat: float, limit: int) -> list[str]:
        """Return the ids of the places nearest to a position."""
        far = distances(lon, lat, self._lons, self._lats)
        return [str(self._ids[row]) for row in np.lexsort((self._ids, far))[:limit]]

    def within_radius(self, lon: float, lat: float, radius: float) -> list[str]:
        """Return the ids of all places within a radius in metres, nearest first."""
        far = distances(lon, lat, self._lons, self._lats)
        order = np.lexsort((self._ids, far))
        return [str(self._ids[row]) for row in order if far[row] <= radius]

    def within_polygon(self, corners: Sequence[tuple[float, float]]) -> list[str]:
        """Return the ids of all places in a polygon, in order."""
        inside = shapely.intersects_xy(shapely.Polygon(corners), self._lons, self._lats)
        return sorted(map(str, self._ids[inside]))

    def of_state(self, state: str) -> set[str]:
        """Return the ids of all places of a state."""
        return set(map(str, self._ids[self._states == state]))
