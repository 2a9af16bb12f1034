"""Boxes and areas with edges that are straight in degrees (RFC 7946 section 3.1.1), shared by all stores.

Every store decides with these same functions in the end, so all agree on points that lie exactly on an edge.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import shape as to_shape

from mesh.geo import Box
from mesh.model import Geometry, WithinBox

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def boxes(query: WithinBox) -> list[Box]:
    """Return the query's box, cut in two where it crosses 180 degrees."""
    if query.west <= query.east:
        return [(query.west, query.south, query.east, query.north)]
    return [(query.west, query.south, 180.0, query.north), (-180.0, query.south, query.east, query.north)]


def in_box(box: Box, lons: Floats, lats: Floats) -> Flags:
    """Return which positions lie in a box or on its edge."""
    west, south, east, north = box
    inside: Flags = (lons >= west) & (lons <= east) & (lats >= south) & (lats <= north)
    return inside


class Area:
    """A GeoJSON geometry prepared for many comparisons."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = to_shape(geometry)
        shapely.prepare(self._geometry)
        self.bounds: Box = self._geometry.bounds

    def parts(self, limit: int) -> list[Box]:
        """Return the bounds of each part of a multi-part geometry, or of the whole if there are over *limit*."""
        parts = getattr(self._geometry, "geoms", [])
        return [part.bounds for part in parts] if 0 < len(parts) <= limit else [self.bounds]

    def touches_position(self, lon: float, lat: float) -> bool:
        """Tell whether a position lies in the area or on its edge."""
        return bool(shapely.intersects_xy(self._geometry, lon, lat))

    def touches_positions(self, lons: Floats, lats: Floats) -> Flags:
        """Return which positions lie in the area or on its edge."""
        inside = in_box(self.bounds, lons, lats)
        inside[inside] = shapely.intersects_xy(self._geometry, lons[inside], lats[inside])
        return inside

    def touches(self, shape: Geometry) -> bool:
        """Tell whether a geometry shares a point with the area."""
        return bool(shapely.intersects(self._geometry, to_shape(shape)))

    def touches_all(self, shapes: npt.NDArray[Any]) -> Flags:
        """Return which of an array of shapely geometries share a point with the area."""
        touching: Flags = shapely.intersects(self._geometry, shapes)
        return touching
