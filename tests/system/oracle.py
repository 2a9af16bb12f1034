"""The right answers, from nothing but the list of places: brute force over numpy arrays, written without the mesh.

Its own distance formula, point-in-polygon, segment crossing and filter evaluation; it knows no regions.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

RADIUS_M = 6_378_100.0
#: Metres: nearer to each other than this, two distances may come in either order.
TIE_M = 1e-6

Row = dict[str, Any]


class Oracle:
    """All places as columns; every answer is a list of row numbers in the order promised."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.ids = np.array([row["id"] for row in rows])
        self.lons = np.array([row["lon"] for row in rows], dtype=float)
        self.lats = np.array([row["lat"] for row in rows], dtype=float)
        self.rank = np.empty(len(rows), dtype=int)
        self.rank[sorted(range(len(rows)), key=lambda index: rows[index]["id"])] = np.arange(len(rows))
        self.row_of = {row["id"]: index for index, row in enumerate(rows)}
        self.shaped = {index: Figure(row["geometry"]) for index, row in enumerate(rows) if row.get("geometry")}
        self._columns: dict[str, np.ndarray] = {}
        self._masks: dict[str, np.ndarray] = {}

    def distances(self, lon: float, lat: float) -> np.ndarray:
        """Return metres from a position to every place (Vincenty's formula for a sphere)."""
        a, b, turn = np.radians(lat), np.radians(self.lats), np.radians(self.lons - lon)
        across = np.hypot(np.cos(b) * np.sin(turn), np.cos(a) * np.sin(b) - np.sin(a) * np.cos(b) * np.cos(turn))
        return RADIUS_M * np.arctan2(across, np.sin(a) * np.sin(b) + np.cos(a) * np.cos(b) * np.cos(turn))

    def by_distance(self, lon: float, lat: float, reach: float | None, where: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows within reach by (distance, id), and the distances of all rows."""
        metres = self.distances(lon, lat)
        chosen = np.flatnonzero((metres <= (np.inf if reach is None else reach)) & self.matching(where))
        return chosen[np.lexsort((self.rank[chosen], metres[chosen]))], metres

    def in_box(self, west: float, south: float, east: float, north: float, where: Any) -> np.ndarray:
        """Return the rows in a box by id."""
        wide = (self.lons >= west) & (self.lons <= east) if west <= east else (self.lons >= west) | (self.lons <= east)
        return self.by_id(wide & (self.lats >= south) & (self.lats <= north) & self.matching(where))

    def in_area(self, geometry: Row, where: Any) -> np.ndarray:
        """Return the rows whose position lies in a polygon, by id."""
        return self.by_id(Figure(geometry).holds(self.lons, self.lats) & self.matching(where))

    def meeting(self, geometry: Row, where: Any) -> np.ndarray:
        """Return the rows whose geometry has a point in common with the given one, by id."""
        asked = Figure(geometry)
        touched = asked.holds(self.lons, self.lats)
        for lon, lat in asked.vertices:
            touched |= (self.lons == lon) & (self.lats == lat)
        for index, figure in self.shaped.items():
            touched[index] = asked.meets(figure)
        return self.by_id(touched & self.matching(where))

    def by_id(self, mask: np.ndarray) -> np.ndarray:
        """Return the rows of a mask by id."""
        chosen = np.flatnonzero(mask)
        return chosen[np.argsort(self.rank[chosen])]

    # -- filters: conditions on columns ------------------------------------------------------------------------------

    def matching(self, where: Any) -> np.ndarray:
        """Return which rows match a filter."""
        mask = np.ones(len(self.rows), dtype=bool)
        for name, wanted in (where or {}).items():
            if name in {"$and", "$or"}:
                parts = [self.matching(part) for part in wanted]
                mask &= np.logical_and.reduce(parts) if name == "$and" else np.logical_or.reduce(parts)
            else:
                operators = wanted if isinstance(wanted, dict) else {"$eq": wanted}
                for operator, operand in operators.items():
                    mask &= self._condition(name, operator, operand)
        return mask

    def _condition(self, name: str, operator: str, operand: Any) -> np.ndarray:
        if operator == "$not":
            return ~np.logical_and.reduce([self._condition(name, *each) for each in operand.items()])
        if operator in {"$ne", "$nin"}:
            return ~self._condition(name, {"$ne": "$eq", "$nin": "$in"}[operator], operand)
        if name == "population":  # numbers or missing (NaN), the only property that is ordered
            column = self._column(name)
            if operator == "$exists":
                return ~np.isnan(column) == operand
            if operator == "$in":
                return np.isin(column, operand)
            compare = {"$eq": np.equal, "$gt": np.greater, "$gte": np.greater_equal, "$lt": np.less}
            return (compare | {"$lte": np.less_equal})[operator](column, operand)
        key = repr((name, operator, operand))
        if key not in self._masks:
            self._masks[key] = np.array([_holds(held, operator, operand) for held in self._column(name)], dtype=bool)
        return self._masks[key]

    def _column(self, name: str) -> np.ndarray:
        if name not in self._columns:
            held = [row["properties"].get(name) for row in self.rows]
            kind: Any = float if name == "population" else object
            column = np.empty(len(held), dtype=kind)
            column[:] = [np.nan if value is None else value for value in held] if kind is float else held
            self._columns[name] = column
        return self._columns[name]


def _holds(held: Any, operator: str, operand: Any) -> bool:
    if operator == "$exists":
        return (held is not None) == operand
    values = held if isinstance(held, list) else [held]
    return any(value in operand if operator == "$in" else value == operand for value in values)


class Figure:
    """A geometry as what it is made of: lone points, segments, and areas bounded by rings."""

    def __init__(self, geometry: Row) -> None:
        kind, coordinates = geometry["type"], geometry["coordinates"]
        self.areas: list[list[np.ndarray]] = []
        self.paths: list[np.ndarray] = []
        self.points: list[list[float]] = []
        if kind.endswith("Polygon"):
            polygons = [coordinates] if kind == "Polygon" else coordinates
            self.areas = [[np.array(ring, dtype=float) for ring in polygon] for polygon in polygons]
            self.paths = [ring for polygon in self.areas for ring in polygon]
        elif kind.endswith("LineString"):
            self.paths = [np.array(line) for line in ([coordinates] if kind == "LineString" else coordinates)]
        else:
            self.points = [coordinates] if kind == "Point" else coordinates
        self.vertices = np.concatenate([*self.paths, np.array(self.points).reshape(-1, 2)])
        starts = [path[:-1] for path in self.paths] or [np.empty((0, 2))]
        ends = [path[1:] for path in self.paths] or [np.empty((0, 2))]
        self.starts, self.ends = np.concatenate(starts), np.concatenate(ends)
        self.low, self.high = self.vertices.min(axis=0), self.vertices.max(axis=0)

    def holds(self, lons: np.ndarray, lats: np.ndarray) -> np.ndarray:
        """Return which positions lie in the areas: an odd number of edges to the east."""
        inside = np.zeros(lons.shape, dtype=bool)
        west, south = self.low
        east, north = self.high
        near = np.flatnonzero((lons >= west) & (lons <= east) & (lats >= south) & (lats <= north))
        for polygon in self.areas:
            odd = np.zeros(near.shape, dtype=bool)
            for (ax, ay), (bx, by) in _edges(polygon):
                if ay == by:
                    continue
                crosses = (lats[near] < ay) != (lats[near] < by)
                odd ^= crosses & (lons[near] < ax + (lats[near] - ay) / (by - ay) * (bx - ax))
            inside[near] |= odd
        return inside

    def meets(self, other: "Figure") -> bool:
        """Tell whether two geometries have a point in common."""
        if (self.low > other.high).any() or (other.low > self.high).any():
            return False
        if self.holds(*other.vertices.T).any() or other.holds(*self.vertices.T).any():
            return True
        if {tuple(each) for each in self.vertices.tolist()} & {tuple(each) for each in other.vertices.tolist()}:
            return True
        return self._crosses(other)

    def _crosses(self, other: "Figure") -> bool:
        a, b = self.starts[:, None, :], self.ends[:, None, :]
        c, d = other.starts[None, :, :], other.ends[None, :, :]
        apart = _side(a, b, c) * _side(a, b, d) < 0
        return bool((apart & (_side(c, d, a) * _side(c, d, b) < 0)).any())


def _edges(polygon: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for ring in polygon:
        yield from itertools.pairwise(ring)


def _side(a: np.ndarray, b: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.sign(
        (b[..., 0] - a[..., 0]) * (p[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (p[..., 0] - a[..., 0])
    )
