"""The region map: which region owns a position, which regions a shape may concern, and how far each is at least.

Theory of operation
-------------------
A region is a polygon with edges straight in longitude and latitude. Positions off the coast belong to someone too, so
`region_of` is wider than the polygons: the first polygon in file order that holds the position, its edge included;
else the nearest region if it is within 50 km (OFFSHORE_M); else none ("outside").

*Border points.* Each border is cut into pieces at most SPACING_M long, measured along the edge; the ends are stored as
unit vectors. Let v(X, S) be the distance from X to the nearest border point of region S, and D(X, S) the true distance
to its polygon, 0 inside. Any point of a border is within H = SPACING_M / 2 of a border point, so for X outside S

    v(X, S) - H <= D(X, S) <= v(X, S)                                                                          (1)

"Nearest" above means smallest v, so that rule and proof speak of the same number; regions within TIE_M of the smallest
count as equal and the first in file order wins. Without that, a sea in front of the end of a common border, where two
regions share the nearest point, would be cut by rounding noise.

*Lower bound.* Let Q be a query point and P any position that `region_of` gives to S, t = distance(Q, P). Both v and D
change by at most t between Q and P. Either P is in the polygon of S, and then by (1)

    t >= D(Q, S) >= v(Q, S) - H            (0 if Q is in S)                                                    (2)

or P is outside the union U of all regions. Then all three hold:

    t >= C       C = v(Q, outer border of U) - H if Q is inside U, as the way to P leaves U; else 0            (3)
    t >= v(Q, S) - OFFSHORE_M - TIE_M      since v(P, S) <= OFFSHORE_M + TIE_M                                 (4)
    t >= (v(Q, S) - near - TIE_M) / 2      near = the least, over regions G, of (H if Q is in G else v(Q, G))  (5)

(5): v(Q, S) - t <= v(P, S) <= v(P, G) + TIE_M. If Q is outside G, v(P, G) <= v(Q, G) + t. If Q is in G, P is not, and
v(P, G) <= D(P, G) + H <= t + H. Either way v(Q, S) - t <= near + t + TIE_M.

So t >= min((2), max((3), (4), (5))), less SLACK_M for rounding: near 0 the arc cosine of a double is 0.2 m coarse.
An edge that two regions have in common, once in each direction, has regions on both sides and is no outer border. One
that should be common but differs in a digit counts as outer: C gets smaller, which costs a question, not an answer.

*Shapes.* A region may hold positions of a shape if its polygon meets the shape, or if the part of the shape outside U
holds positions near enough. That part is covered by circles, halved until (3)-(5) clear them or they are small.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import shape as to_shape

from mesh.errors import ConfigError, InvalidRequest
from mesh.geo import EARTH_RADIUS_M, Box, Floats, covering_circle, split_box, unit_vector, unit_vectors
from mesh.geojson import geometry as check_geometry
from mesh.model import Geometry

#: Metres off the coast that still belong to the nearest region; the outline's coast is cut up to 6 km short.
OFFSHORE_M = 50_000.0
#: Metres between border points: bounds are half of it loose. Halving it doubles the time of a bound.
SPACING_M = 2_000.0
#: Metres within which two regions count as equally near.
TIE_M = 1.0
#: Metres that a lower bound gives away to rounding.
SLACK_M = 1.0
#: Positions in the polygon of one region; the Census outline of the Pacific states has 5,210 before simplification.
MAX_REGION_VERTICES = 100_000

# Degrees (0.1 mm .. 0.2 m): how far a shape may stand over a border and still count as touching it. A query looks twice
# as far as a stored shape may stand over, so that no stored shape is missed.
_OVER = 1e-6
_TOUCH = 2e-6
# A piece of open water smaller than this (metres) is not worth halving again; nor are more than this many pieces.
_SMALL_M = 2_000.0
_MAX_PIECES = 64

_HALF = SPACING_M / 2
_ID = re.compile(r"[a-z0-9-]{1,8}")

Bools = npt.NDArray[np.bool_]
Indexes = npt.NDArray[np.intp]


class RegionMap:
    """The regions of a mesh; immutable, and safe to share between threads."""

    def __init__(self, data: bytes, *, file: str = "region map") -> None:
        names, polygons = _read(data, file)
        #: The file's bytes, as a broker sends them to clients.
        self.data = data
        #: The first 4 bytes of the SHA-256 of `data`: two sides with the same digest have the same map.
        self.digest = hashlib.sha256(data).digest()[:4]
        #: Region ids in file order.
        self.names: tuple[str, ...] = names
        self._polygons = polygons
        _prepare(polygons)
        self._borders = _Borders.build(polygons)

    @classmethod
    def load(cls, path: str | Path) -> "RegionMap":
        """Read a GeoJSON file; `ConfigError` names what is wrong with it."""
        try:
            return cls(Path(path).read_bytes(), file=str(path))
        except OSError as error:
            raise ConfigError(f"cannot read the region map: {error.strerror}", file=str(path)) from error

    @classmethod
    def from_bytes(cls, data: bytes) -> "RegionMap":
        """Read GeoJSON as a broker sent it."""
        return cls(data)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RegionMap":
        """Build a map from a GeoJSON FeatureCollection already decoded."""
        return cls(json.dumps(document, separators=(",", ":")).encode())

    # -- a position ---------------------------------------------------------------------------------------------

    def region_of(self, lon: float, lat: float) -> str | None:
        """Return the region that owns a position, or None outside all."""
        index = self._index_of(lon, lat)
        return self.names[index] if index >= 0 else None

    def regions_of(self, lons: npt.ArrayLike, lats: npt.ArrayLike) -> Indexes:
        """Return, for each of many positions, the index into `names` of its owner, -1 outside: `region_of` in bulk."""
        xs, ys = np.asarray(lons, dtype=np.float64), np.asarray(lats, dtype=np.float64)
        found = np.full(xs.shape, -1, dtype=np.intp)
        for index in range(len(self.names) - 1, -1, -1):  # backwards, so that the first in file order stays
            found[shapely.intersects_xy(self._polygons[index], xs, ys)] = index
        for row in np.flatnonzero(found < 0):
            found[row] = self._nearest(float(xs[row]), float(ys[row]))
        return found

    def lower_bounds(self, lon: float, lat: float) -> dict[str, float]:
        """Return for each region a distance in metres that none of its positions is nearer than."""
        polygon, offshore = self._bounds(lon, lat)
        return dict(zip(self.names, map(min, polygon, offshore), strict=True))

    def lower_bound(self, region: str, lon: float, lat: float) -> float:
        """Return a distance in metres from a position that nothing `region_of` gives to *region* is nearer than."""
        return self.lower_bounds(lon, lat)[region]

    # -- a shape: the regions that may hold positions in it, in file order --------------------------------------------

    def regions_in_circle(self, lon: float, lat: float, radius: float) -> tuple[str, ...]:
        """Return the regions that may own a position at most *radius* metres away."""
        return tuple(name for name, bound in self.lower_bounds(lon, lat).items() if bound <= radius)

    def regions_in_box(self, west: float, south: float, east: float, north: float) -> tuple[str, ...]:
        """Return the regions that may own a position in a box in degrees; west > east crosses 180 degrees."""
        boxes = [
            shapely.box(w - _OVER, s - _OVER, e + _OVER, n + _OVER) for w, s, e, n in _boxes(west, south, east, north)
        ]
        return self._named(self._may_hold(shapely.union_all(boxes)))

    def regions_in_geometry(self, geometry: Geometry, *, shapes: bool = False) -> tuple[str, ...]:
        """Return the regions that may own a position in a checked GeoJSON geometry.

        With *shapes*, those that may own a place whose whole shape meets the geometry. A shape may reach out to sea
        farther than any position of its region, so as soon as the geometry leaves the polygons that is every region.
        """
        built = to_shape(geometry)
        if shapes:
            wide = not shapely.is_empty(shapely.difference(built, self._inland))
            return self.names if wide else self._named(self._touched(built))
        return self._named(self._may_hold(built))

    def regions_of_shape(self, geometry: Geometry) -> tuple[str, ...]:
        """Return the regions that a checked geometry really reaches into; touching a border is not reaching.

        Those whose polygon it enters, and the owners of its vertices that lie outside all polygons.
        """
        built = to_shape(geometry)
        reached = shapely.intersects(self._eroded, built)
        vertices = shapely.get_coordinates(built)
        at_sea = vertices[~shapely.dwithin(self._inland, shapely.points(vertices), _TOUCH)]
        owners = self.regions_of(at_sea[:, 0], at_sea[:, 1])
        reached[owners[owners >= 0]] = True
        return self._named(reached)

    # -- inside -------------------------------------------------------------------------------------------------

    def _index_of(self, lon: float, lat: float) -> int:
        inside = shapely.intersects_xy(self._polygons, lon, lat)
        first = int(inside.argmax())
        return first if inside[first] else self._nearest(lon, lat)

    def _nearest(self, lon: float, lat: float) -> int:
        edge, _ = self._borders.distances(lon, lat)
        least = min(edge)
        if not least <= OFFSHORE_M:
            return -1
        return next(index for index, metres in enumerate(edge) if metres <= least + TIE_M)

    def _bounds(self, lon: float, lat: float) -> tuple[list[float], list[float]]:
        """Return (2) and max((3), (4), (5)) of the theory for each region."""
        inside = shapely.intersects_xy(self._polygons, lon, lat).tolist()
        edge, outer = self._borders.distances(lon, lat)
        coast = outer - _HALF if any(inside) else 0.0
        near = min(_HALF if within else metres for within, metres in zip(inside, edge, strict=True))
        polygon = [0.0 if within else metres - _HALF for within, metres in zip(inside, edge, strict=True)]
        offshore = [max(coast, metres - OFFSHORE_M - TIE_M, (metres - near - TIE_M) / 2) for metres in edge]
        return _less_slack(polygon), _less_slack(offshore)

    def _may_hold(self, built: shapely.Geometry) -> Bools:
        touched = self._touched(built)
        pieces, budget = [shapely.difference(built, self._inland)], _MAX_PIECES
        while pieces and not touched.all():
            piece = pieces.pop()
            if shapely.is_empty(piece):
                continue
            lon, lat, radius = covering_circle(tuple(shapely.bounds(piece).tolist()))
            near = ~touched & (np.array(self._bounds(lon, lat)[1]) <= radius)
            if near.any() and radius > _SMALL_M and budget > 0:
                budget -= 1
                pieces.extend(_halves(piece))
            else:
                touched |= near
        return touched

    def _touched(self, built: shapely.Geometry) -> Bools:
        touched: Bools = shapely.dwithin(self._polygons, built, _TOUCH)
        return touched

    def _named(self, chosen: Bools) -> tuple[str, ...]:
        return tuple(name for name, wanted in zip(self.names, chosen.tolist(), strict=True) if wanted)

    @cached_property
    def _inland(self) -> shapely.Geometry:
        # The union, a little smaller: what is on its very edge counts as outside too, so that the rounding of
        # difference() cannot lose a sliver of sea.
        union = shapely.buffer(shapely.union_all(self._polygons), -_OVER, join_style="mitre")
        _prepare(union)
        return union

    @cached_property
    def _eroded(self) -> Any:
        eroded = shapely.buffer(self._polygons, -_OVER, join_style="mitre")
        _prepare(eroded)
        return eroded


@dataclass(frozen=True)
class _Borders:
    """Border points as unit vectors, sorted by (region, shared or outer), and where each such run starts."""

    vectors: Floats
    starts: Indexes
    #: For each run, its region's index and whether it is outer border of the union.
    runs: tuple[tuple[int, bool], ...]
    count: int

    @classmethod
    def build(cls, polygons: Any) -> "_Borders":
        edges, owners = _edges(polygons)
        present = set(map(tuple, edges.tolist()))
        outer = np.array([(c, d, a, b) not in present for a, b, c, d in edges.tolist()])
        order = np.lexsort((outer, owners))
        points, pieces = _cut(edges[order])
        keys = np.repeat(owners[order] * 2 + outer[order], pieces)
        kinds, starts = np.unique(keys, return_index=True)
        runs = tuple((int(kind) // 2, bool(kind % 2)) for kind in kinds)
        # One row for each axis: the product below then runs over contiguous memory.
        return cls(np.ascontiguousarray(unit_vectors(points[:, 0], points[:, 1]).T), starts, runs, len(polygons))

    def distances(self, lon: float, lat: float) -> tuple[list[float], float]:
        """Return metres to the nearest border point of each region, and to the outer border of the union."""
        cosines = np.maximum.reduceat(np.array(unit_vector(lon, lat)) @ self.vectors, self.starts).tolist()
        edge, sea = [math.inf] * self.count, math.inf
        for (region, outer), cosine in zip(self.runs, cosines, strict=True):
            metres = EARTH_RADIUS_M * math.acos(max(-1.0, min(1.0, cosine)))
            edge[region] = min(edge[region], metres)
            if outer:
                sea = min(sea, metres)
        return edge, sea


def _edges(polygons: Any) -> tuple[Floats, Indexes]:
    """Return all edges as rows (lon, lat, lon, lat), every shell turning the same way, and the region of each."""
    parts, region = shapely.get_parts(shapely.normalize(polygons), return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    return np.hstack([points[:-1][same], points[1:][same]]), region[part[ring[1:][same]]]


def _cut(edges: Floats) -> tuple[Floats, Indexes]:
    """Return the ends of pieces of at most SPACING_M, edge after edge, and how many each edge has."""
    start, step = edges[:, :2], edges[:, 2:] - edges[:, :2]
    # The longest that a degree of longitude gets along the edge: at its latitude nearest to the equator.
    lowest = np.where(edges[:, 1] * edges[:, 3] <= 0, 0.0, np.minimum(abs(edges[:, 1]), abs(edges[:, 3])))
    metres = EARTH_RADIUS_M * np.radians(np.hypot(step[:, 1], step[:, 0] * np.cos(np.radians(lowest))))
    pieces = np.maximum(np.ceil(metres / SPACING_M), 1).astype(np.intp)
    ends = pieces + 1
    which = np.repeat(np.arange(len(edges)), ends)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(ends) - ends, ends)
    return start[which] + step[which] * (nth / pieces[which])[:, None], ends


def _boxes(west: float, south: float, east: float, north: float) -> list[Box]:
    return [(west, south, east, north)] if west <= east else split_box(west, south, east, north)


def _halves(piece: shapely.Geometry) -> Iterator[shapely.Geometry]:
    west, south, east, north = shapely.bounds(piece).tolist()
    lon, lat = (west + east) / 2, (south + north) / 2
    if (east - west) * math.cos(math.radians(lat)) > north - south:
        boxes = shapely.box(west, south, lon, north), shapely.box(lon, south, east, north)
    else:
        boxes = shapely.box(west, south, east, lat), shapely.box(west, lat, east, north)
    yield from (shapely.intersection(piece, box) for box in boxes)


def _prepare(polygons: Any) -> None:
    shapely.prepare(polygons)
    # GEOS builds the indexes of a prepared geometry at the first question, which is not safe from two threads at
    # once: ask each kind of question here, before anyone else can.
    inside = shapely.point_on_surface(polygons)
    shapely.intersects(polygons, inside)
    shapely.dwithin(polygons, inside, _TOUCH)
    shapely.intersects(polygons, shapely.envelope(polygons))


def _less_slack(bounds: list[float]) -> list[float]:
    return [max(0.0, metres - SLACK_M) for metres in bounds]


# -- reading the file -----------------------------------------------------------------------------------------------


def _read(data: bytes, file: str) -> tuple[tuple[str, ...], Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise ConfigError(
            f"not JSON: {error}", file=file, hint="a region map is a GeoJSON FeatureCollection"
        ) from error
    if not isinstance(document, dict) or document.get("type") != "FeatureCollection":
        raise ConfigError("not a GeoJSON FeatureCollection", file=file, field="type")
    features = document.get("features")
    if not isinstance(features, list) or not features:
        raise ConfigError("must be a list with one Feature for each region", file=file, field="features")
    names: list[str] = []
    for index, feature in enumerate(features):
        names.append(_name(feature, names, file, f"features[{index}]"))
    return tuple(names), np.array(
        [_polygon(item, file, f"features[{at}].geometry") for at, item in enumerate(features)]
    )


def _name(feature: Any, earlier: list[str], file: str, field: str) -> str:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise ConfigError("not a GeoJSON Feature", file=file, field=field)
    name = feature.get("id")
    if not isinstance(name, str) or not _ID.fullmatch(name):
        hint = "1 to 8 of a-z, 0-9 and -, beside `geometry`"
        raise ConfigError(f"{name!r:.40} is not a region id", file=file, field=f"{field}.id", hint=hint)
    if name in earlier:
        raise ConfigError(f"the id {name!r} is used twice", file=file, field=f"{field}.id")
    return name


def _polygon(feature: dict[str, Any], file: str, field: str) -> shapely.Geometry:
    try:
        checked = check_geometry(feature.get("geometry"), field, max_vertices=MAX_REGION_VERTICES)
    except InvalidRequest as error:
        raise ConfigError(error.message, file=file, field=error.field, hint=error.hint) from error
    if checked["type"] not in {"Polygon", "MultiPolygon"}:
        message = f"a region is a Polygon or a MultiPolygon, not a {checked['type']}"
        raise ConfigError(message, file=file, field=f"{field}.type")
    return to_shape(checked)
