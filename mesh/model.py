"""The values everything else speaks of: places, the operations on them, and their answers.

All are `msgspec` structures, so that a wrong request dies at the edge with the field named.
Longitude comes before latitude, both in degrees (WGS84); distances are metres; timestamps are seconds since 1970.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec

Geometry = dict[str, Any]
Properties = dict[str, Any]
#: A checked subset of MongoDB's query language on properties; see `mesh.where`.
Where = dict[str, Any]


class Place(msgspec.Struct, frozen=True, array_like=True):
    """One stored place: a position, properties, and optionally a line or an area.

    `distance` is set by queries that have a centre, in metres from it to the position.
    """

    id: str
    lon: float
    lat: float
    properties: Properties = {}
    #: GeoJSON of a place that is more than a point; its position is then a point on it.
    shape: Geometry | None = None
    version: int = 1
    #: When the position was measured, as given to `move`; None when nobody said.
    timestamp: float | None = None
    region: str = ""
    distance: float | None = None

    @property
    def geometry(self) -> Geometry:
        """The GeoJSON geometry: the shape if there is one, else the position as a Point."""
        return self.shape or {"type": "Point", "coordinates": [self.lon, self.lat]}

    @property
    def __geo_interface__(self) -> dict[str, Any]:
        return self.to_geojson()

    def to_geojson(self) -> dict[str, Any]:
        """Return a GeoJSON Feature; what the mesh adds stands beside `properties`, so no round trip stores it."""
        extras = {"distance": self.distance, "region": self.region or None, "version": self.version}
        feature = {"type": "Feature", "id": self.id, "geometry": self.geometry, "properties": self.properties}
        return feature | {name: value for name, value in extras.items() if value is not None}


class Draft(msgspec.Struct, frozen=True, array_like=True):
    """A place to be written: what the caller decides, before the store adds version and region."""

    lon: float
    lat: float
    properties: Properties = {}
    id: str | None = None
    shape: Geometry | None = None
    timestamp: float | None = None
    #: An upsert's version is later than this: the one a place had in the region that it comes from.
    version: int = 0


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """The place in an order where a page ended: everything at or before (distance, id) has been seen."""

    distance: float
    id: str


# -- operations: what a client may ask of one region ----------------------------------------------------------------


class Operation(msgspec.Struct, frozen=True, tag_field="op", omit_defaults=True, forbid_unknown_fields=True):
    """Base of all operations; the tag on the wire is the operation's name."""


class Nearest(Operation, frozen=True, tag="nearest"):
    """The *limit* places nearest to a position, ordered by (distance, id)."""

    lon: float
    lat: float
    limit: int = 10
    #: Metres, inclusive; None means no bound.
    max_distance: float | None = None
    where: Where | None = None
    after: Mark | None = None


class WithinRadius(Operation, frozen=True, tag="within_radius"):
    """Places at most *radius* metres away (inclusive), ordered by (distance, id)."""

    lon: float
    lat: float
    radius: float
    limit: int = 100
    where: Where | None = None
    after: Mark | None = None


class WithinBox(Operation, frozen=True, tag="within_box"):
    """Places whose position lies in the box, its edges included, ordered by id; west > east crosses 180 degrees."""

    west: float
    south: float
    east: float
    north: float
    limit: int = 100
    where: Where | None = None
    after: Mark | None = None


class WithinPolygon(Operation, frozen=True, tag="within_polygon"):
    """Places whose position lies in a Polygon or MultiPolygon, its edge included, ordered by id.

    Edges are straight in longitude and latitude, as RFC 7946 section 3.1.1 has them, so a box and its polygon agree.
    """

    geometry: Geometry
    limit: int = 100
    where: Where | None = None
    after: Mark | None = None


class Intersects(Operation, frozen=True, tag="intersects"):
    """Places whose geometry (not only the position) shares a point with the given one, ordered by id."""

    geometry: Geometry
    limit: int = 100
    where: Where | None = None
    after: Mark | None = None


class Find(Operation, frozen=True, tag="find"):
    """Places whose properties match, ordered by id."""

    where: Where | None = None
    limit: int = 100
    after: Mark | None = None


class Count(Operation, frozen=True, tag="count"):
    """How many places match."""

    where: Where | None = None


class Get(Operation, frozen=True, tag="get"):
    """One place by id."""

    id: str


class GetMany(Operation, frozen=True, tag="get_many"):
    """Those of the ids that exist, in the order asked."""

    ids: list[str]


class Insert(Operation, frozen=True, tag="insert"):
    """Store a new place; an existing id is a `Conflict`."""

    place: Draft


class InsertMany(Operation, frozen=True, tag="insert_many"):
    """Store many new places; each row succeeds or fails on its own."""

    places: list[Draft]


class Upsert(Operation, frozen=True, tag="upsert"):
    """Store a place, replacing the one with the same id if there is one."""

    place: Draft


class Update(Operation, frozen=True, tag="update"):
    """Merge a patch into the properties (RFC 7396: null removes)."""

    id: str
    patch: Properties


#: What to do with a place that a `Move` would part from its shape.
SHAPED_HINT = "upsert it with its new geometry"


class Move(Operation, frozen=True, tag="move"):
    """Set the position as measured at *timestamp*; a move not newer than the stored timestamp changes nothing."""

    id: str
    lon: float
    lat: float
    timestamp: float


class Delete(Operation, frozen=True, tag="delete"):
    """Remove one place; given *version*, only if the stored one is not newer."""

    id: str
    version: int | None = None


Query = Nearest | WithinRadius | WithinBox | WithinPolygon | Intersects | Find
Write = Insert | InsertMany | Upsert | Update | Move | Delete
AnyOperation = Query | Count | Get | GetMany | Write


# -- answers: what one region says --------------------------------------------------------------------------------


class Answer(msgspec.Struct, frozen=True, tag_field="answer"):
    """Base of all answers of one region."""


class Found(Answer, frozen=True, tag="found"):
    """Places in the operation's order; *more* says that the limit cut something off."""

    places: list[Place]
    more: bool = False


class Counted(Answer, frozen=True, tag="counted"):
    """How many there are."""

    count: int


class Stored(Answer, frozen=True, tag="stored"):
    """The place as it now stands."""

    place: Place


class RowError(msgspec.Struct, frozen=True):
    """Why one row of a bulk write was refused: its index in the request, and an error as a dictionary."""

    row: int
    error: dict[str, Any]


class BulkStored(Answer, frozen=True, tag="bulk_stored"):
    """The ids stored, by row (None where the row failed), and the errors of the others."""

    ids: list[str | None]
    errors: list[RowError] = []


class Deleted(Answer, frozen=True, tag="deleted"):
    """The place is gone."""

    id: str


class Failed(Answer, frozen=True, tag="failed"):
    """The operation failed: `MeshError.to_dict()`."""

    error: dict[str, Any]


AnyAnswer = Found | Counted | Stored | BulkStored | Deleted | Failed


# -- what a caller of the client gets ------------------------------------------------------------------------------


class Page(msgspec.Struct, frozen=True):
    """One page of a query's answer, merged from all regions that had to be asked."""

    places: list[Place]
    #: Give this to the same call as `after=` for the next page; None when there is nothing more.
    next: str | None = None
    #: True when a region that had to be asked did not answer; `failed_regions` names it.
    partial: bool = False
    failed_regions: tuple[str, ...] = ()
    asked_regions: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Place]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Place:
        return self.places[index]

    def to_geojson(self) -> dict[str, Any]:
        """Return a GeoJSON FeatureCollection, with what the mesh adds as foreign members (RFC 7946 section 6.1)."""
        return {
            "type": "FeatureCollection",
            "features": [place.to_geojson() for place in self.places],
            "numberReturned": len(self.places),
            "next": self.next,
            "regions": {"asked": list(self.asked_regions), "failed": list(self.failed_regions)},
            "partial": self.partial,
        }


def map_digest(data: bytes) -> bytes:
    """Return the four bytes that identify a region map on the wire: the first of the SHA-256 of its file."""
    return hashlib.sha256(data).digest()[:4]
