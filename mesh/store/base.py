"""What a store is: the places of one region, and the promises every implementation keeps.

The contract suite in `mesh/testing/store_contract.py` checks these promises; a new implementation passes it first.

- Distances are great-circle metres on a sphere of `mesh.geo.EARTH_RADIUS_M`, from the query's point to the
  *position* of a place. Box and polygon edges are straight in degrees (RFC 7946), their edge belongs to them.
- Ordered queries order by (distance, id); those without a centre by id, with distance 0 in a `Mark`.
- `Found.more` is True exactly when the next page would not be empty.
- Writes return what is stored. The version starts at 1 and grows by one with every `update`, `upsert` and `move` that
  is carried out, even if the place looks the same after it.
- Arguments are validated by the caller (`mesh.validate`); a store refuses only what it alone can know.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from mesh.model import (
    BulkStored,
    Count,
    Draft,
    Find,
    Found,
    Intersects,
    Nearest,
    Place,
    Properties,
    WithinBox,
    WithinPolygon,
    WithinRadius,
)


class Store(Protocol):
    """The places of one region.

    Raises everywhere: `StoreUnavailable` when it cannot be reached, `StoreOverloaded` when it pushes back,
    `DeadlineExceeded` when the time limit ends first.
    """

    region: str

    def time_limit(self, seconds: float) -> AbstractContextManager[None]:
        """Bound everything this thread does with the store inside the block; limits nest, the earliest end counts.

        Without one, a store that has to wait for something gives up by itself after some ten seconds.
        """

    def insert(self, place: Draft) -> Place:
        """Store a new place; `Conflict` if the id exists. A missing id becomes `<region>:<random>`."""

    def insert_many(self, places: Sequence[Draft]) -> BulkStored:
        """Store new places; rows fail one by one and never stop the others."""

    def upsert(self, place: Draft) -> Place:
        """Store a place, replacing all of what has its id, shape and timestamp included.

        The version becomes later than that of the replaced place and than the draft's.
        """

    def get(self, id: str) -> Place:  # noqa: A002
        """Return one place; `NotFound` otherwise."""

    def get_many(self, ids: Sequence[str]) -> list[Place]:
        """Return those that exist, in the order asked; an id asked twice comes twice."""

    def update(self, id: str, patch: Properties) -> Place:  # noqa: A002
        """Merge *patch* into the properties (RFC 7396); `NotFound` otherwise."""

    def move(self, id: str, lon: float, lat: float, timestamp: float) -> Place:  # noqa: A002
        """Set the position if *timestamp* is newer than the stored one, and return what is then stored.

        `NotFound` without such a place; `InvalidRequest` if it has a shape, which would stay behind.
        """

    def delete(self, id: str, version: int | None = None) -> None:  # noqa: A002
        """Remove a place; `NotFound` if there is none, `Conflict` if the stored one is newer than *version*."""

    def nearest(self, query: Nearest) -> Found:
        """Return the nearest places."""

    def within_radius(self, query: WithinRadius) -> Found:
        """Return the places within a radius, nearest first."""

    def within_box(self, query: WithinBox) -> Found:
        """Return the places in a box."""

    def within_polygon(self, query: WithinPolygon) -> Found:
        """Return the places in a polygon."""

    def intersects(self, query: Intersects) -> Found:
        """Return the places whose geometry touches the given one."""

    def find(self, query: Find) -> Found:
        """Return the places whose properties match."""

    def count(self, query: Count) -> int:
        """Count the places whose properties match."""

    def close(self) -> None:
        """Release connections; safe to call twice."""
