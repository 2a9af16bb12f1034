"""Places as columns of numbers, so that numpy answers a query over all of them in a few hundred microseconds.

numpy decides only who comes into question; the distance that orders and cuts is always `mesh.geo.distance`, as in
every other store. The two differ in the last bits, which `_SLACK_M` covers.
"""

import bisect
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh import geo
from mesh.model import Mark, Place, Properties
from mesh.store.planar import Area, in_box

#: Metres. The length of a chord loses half its digits near the antipode: 0.2 m there, nanometres elsewhere.
_SLACK_M = 1.0
_START = Mark(-1.0, "")

Test = Callable[[Properties], bool]
Rows = npt.NDArray[np.intp]
#: What an ordered query finds: (distance in metres, id, place).
Hit = tuple[float, str, Place]


class Columns:
    """An immutable set of places in the order of their ids; `drop` hides a row."""

    def __init__(self, places: Iterable[Place], shapes: dict[str, Any]) -> None:
        self.places = sorted(places, key=lambda place: place.id)
        self._ids = [place.id for place in self.places]
        self._lons = np.array([place.lon for place in self.places], dtype=np.float64)
        self._lats = np.array([place.lat for place in self.places], dtype=np.float64)
        self._alive = np.ones(len(self.places), dtype=np.bool_)
        self._shapes = shapes

    def drop(self, id: str) -> None:  # noqa: A002
        """Hide a place that has since changed or gone."""
        row = bisect.bisect_left(self._ids, id)
        if row < len(self._ids) and self._ids[row] == id:
            self._alive[row] = False

    def nearest(self, lon: float, lat: float, bounds: tuple[Mark | None, float], test: Test, limit: int) -> list[Hit]:
        """Return the first *limit* hits after the mark and within the distance of *bounds*, in order."""
        after, reach = bounds
        rough = self._rough_distances(lon, lat)
        first = (after or _START).distance
        rows = np.flatnonzero(self._alive & (rough >= first - _SLACK_M) & (rough <= reach + _SLACK_M))
        size = 2 * limit
        while True:
            chosen, horizon = _nearest_rows(rows, rough, size)
            hits = sorted(self._hits(chosen, (lon, lat), bounds, test))
            # Past the horizon there may be rows that were not chosen and come first after all.
            if horizon == np.inf or (len(hits) >= limit and hits[limit - 1][0] < horizon):
                return hits[:limit]
            size *= 8

    def in_boxes(self, boxes: list[geo.Box]) -> Rows:
        """Return the rows whose position lies in one of the boxes."""
        inside = np.zeros(len(self.places), dtype=np.bool_)
        for box in boxes:
            inside |= in_box(box, self._lons, self._lats)
        return np.flatnonzero(inside & self._alive)

    def in_area(self, area: Area) -> Rows:
        """Return the rows whose position lies in an area."""
        return np.flatnonzero(self._alive & area.touches_positions(self._lons, self._lats))

    def touching(self, area: Area) -> Rows:
        """Return the rows whose geometry, a shape or else the position, touches an area."""
        touching = area.touches_positions(self._lons, self._lats)
        rows, shapes = self._shaped
        touching[rows] = area.touches_all(shapes)
        return np.flatnonzero(self._alive & touching)

    def rows(self) -> Rows:
        """Return all rows."""
        return np.flatnonzero(self._alive)

    def by_id(self, rows: Rows, after: Mark | None, test: Test) -> Iterator[Place]:
        """Yield the places of *rows* after the mark that pass the test, in the order of their ids."""
        start = bisect.bisect_right(self._ids, after.id) if after else 0
        for row in rows[np.searchsorted(rows, start) :]:
            place = self.places[row]
            if test(place.properties):
                yield place

    @cached_property
    def _units(self) -> geo.Floats:
        return geo.unit_vectors(self._lons, self._lats)

    @cached_property
    def _shaped(self) -> tuple[Rows, npt.NDArray[Any]]:
        rows = np.array([row for row, id_ in enumerate(self._ids) if id_ in self._shapes], dtype=np.intp)
        return rows, np.array([self._shapes[self._ids[row]] for row in rows], dtype=object)

    def _rough_distances(self, lon: float, lat: float) -> geo.Floats:
        difference = self._units - np.array(geo.unit_vector(lon, lat))
        chord = np.sqrt(np.einsum("ij,ij->i", difference, difference))
        rough: geo.Floats = 2 * geo.EARTH_RADIUS_M * np.arcsin(np.minimum(chord / 2, 1.0))
        return rough

    def _hits(
        self, rows: Rows, centre: tuple[float, float], bounds: tuple[Mark | None, float], test: Test
    ) -> Iterator[Hit]:
        after, reach = bounds
        seen = (after.distance, after.id) if after else (-1.0, "")
        for row in rows:
            place = self.places[row]
            distance = geo.distance(*centre, place.lon, place.lat)
            if distance <= reach and (distance, place.id) > seen and test(place.properties):
                yield distance, place.id, place


def _nearest_rows(rows: Rows, rough: geo.Floats, size: int) -> tuple[Rows, float]:
    if size >= len(rows):
        return rows, np.inf
    chosen = rows[np.argpartition(rough[rows], size)[:size]]
    return chosen, float(rough[chosen].max()) - _SLACK_M
