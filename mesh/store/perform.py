"""Operations as values, done by a store: the one table from what was asked to the method that answers it."""

from collections.abc import Callable
from typing import Any

from mesh.model import (
    AnyAnswer,
    AnyOperation,
    Count,
    Counted,
    Delete,
    Deleted,
    Find,
    Found,
    Get,
    GetMany,
    Insert,
    InsertMany,
    Intersects,
    Move,
    Nearest,
    Stored,
    Update,
    Upsert,
    WithinBox,
    WithinPolygon,
    WithinRadius,
)
from mesh.store.base import Store


def perform(store: Store, operation: AnyOperation) -> AnyAnswer:
    """Do one operation and return its answer; what the store raises goes through."""
    return _METHODS[type(operation)](store, operation)


def _delete(store: Store, operation: Delete) -> Deleted:
    store.delete(operation.id, operation.version)
    return Deleted(operation.id)


_METHODS: dict[type[Any], Callable[[Store, Any], AnyAnswer]] = {
    Nearest: lambda store, op: store.nearest(op),
    WithinRadius: lambda store, op: store.within_radius(op),
    WithinBox: lambda store, op: store.within_box(op),
    WithinPolygon: lambda store, op: store.within_polygon(op),
    Intersects: lambda store, op: store.intersects(op),
    Find: lambda store, op: store.find(op),
    Count: lambda store, op: Counted(store.count(op)),
    Get: lambda store, op: Stored(store.get(op.id)),
    GetMany: lambda store, op: Found(store.get_many(op.ids)),
    Insert: lambda store, op: Stored(store.insert(op.place)),
    InsertMany: lambda store, op: store.insert_many(op.places),
    Upsert: lambda store, op: Stored(store.upsert(op.place)),
    Update: lambda store, op: Stored(store.update(op.id, op.patch)),
    Move: lambda store, op: Stored(store.move(op.id, op.lon, op.lat, op.timestamp)),
    Delete: _delete,
}
