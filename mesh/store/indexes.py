"""The indexes and the validation rules that the collection of places needs, as data; compare them, create them.

What is missing is created. What is extra may be an operator's own, and what differs may take hours to rebuild, so
both are named and left alone.
"""

from typing import Any, NamedTuple

import msgspec
from pymongo.collection import Collection
from pymongo.operations import IndexModel

Document = dict[str, Any]


class Index(NamedTuple):
    """One desired index: its keys in order, its options, and what it is for."""

    keys: tuple[tuple[str, Any], ...]
    reason: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The name MongoDB would give it."""
        return "_".join(f"{field}_{kind}" for field, kind in self.keys)


DESIRED = (
    Index((("loc", "2dsphere"),), "nearest and within_radius"),
    Index((("loc.coordinates", "2d"),), "boxes and areas, whose edges are straight in degrees"),
    # Equality first: filtered nearest took 1.9 ms with it, 93 with `loc` alone, 81 with the two the other way round.
    Index((("props.kind", 1), ("loc", "2dsphere")), "nearest of one kind"),
    Index((("props.$**", 1),), "any filter on properties"),
    Index(
        (("bbox.0", 1), ("bbox.2", 1), ("bbox.1", 1), ("bbox.3", 1)),
        "intersects, for the places that have a shape",
        (("sparse", True),),
    ),
)

_COORDINATES: Document = {
    "bsonType": "array",
    "minItems": 2,
    "maxItems": 2,
    "items": [
        {"bsonType": "double", "minimum": -180, "maximum": 180},
        {"bsonType": "double", "minimum": -90, "maximum": 90},
    ],
}
#: MongoDB indexes a missing or malformed `loc` without a word, and never finds it again; so the server checks too.
VALIDATOR: Document = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["_id", "loc", "props", "v"],
        "additionalProperties": False,
        "properties": {
            "_id": {"bsonType": "string"},
            "loc": {
                "bsonType": "object",
                "required": ["type", "coordinates"],
                "additionalProperties": False,
                "properties": {"type": {"enum": ["Point"]}, "coordinates": _COORDINATES},
            },
            "props": {"bsonType": "object"},
            "v": {"bsonType": ["int", "long"], "minimum": 1},
            "ts": {"bsonType": "double"},
            "shape": {"bsonType": "object", "required": ["type", "coordinates"]},
            "bbox": {"bsonType": "array", "minItems": 4, "maxItems": 4, "items": {"bsonType": "double"}},
        },
    }
}


class Differences(msgspec.Struct, frozen=True):
    """How a collection differs from what it should be, by the names of indexes."""

    missing: list[str] = []
    extra: list[str] = []
    different: list[str] = []
    #: Whether the validation rules are the desired ones.
    validator: bool = True

    @property
    def fine(self) -> bool:
        """Whether every desired index and the validation rules are there; extra indexes do no harm."""
        return not self.missing and not self.different and self.validator


def compare(collection: Collection[Any]) -> Differences:
    """Return how the collection's indexes and rules differ from the desired ones; changes nothing."""
    held = {_identity(index["key"]): index for index in collection.list_indexes()}
    desired = {_identity(index.keys): index for index in DESIRED}
    return Differences(
        missing=[index.name for key, index in desired.items() if key not in held],
        extra=[index["name"] for key, index in held.items() if key not in desired and index["name"] != "_id_"],
        different=[index.name for key, index in desired.items() if key in held and not _agrees(held[key], index)],
        validator=collection.options().get("validator") == VALIDATOR,
    )


def ensure(collection: Collection[Any]) -> Differences:
    """Create the missing indexes and set the rules; return how the collection differed before."""
    before = compare(collection)
    if not before.validator:
        set_rules(collection)
    missing = [index for index in DESIRED if index.name in before.missing]
    if missing:
        collection.create_indexes([
            IndexModel(list(index.keys), name=index.name, **dict(index.options)) for index in missing
        ])  # fmt: skip
    return before


def _identity(keys: Any) -> tuple[tuple[str, str], ...]:
    pairs = keys.items() if hasattr(keys, "items") else keys
    return tuple((field, kind if isinstance(kind, str) else str(int(kind))) for field, kind in pairs)


def _agrees(held: Any, desired: Index) -> bool:
    options = ("sparse", "unique", "partialFilterExpression", "expireAfterSeconds", "wildcardProjection", "hidden")
    wanted = dict(desired.options)
    return all(held.get(option) == wanted.get(option) for option in options)


def set_rules(collection: Collection[Any]) -> None:
    """Have the server check what is written, from the first document on."""
    database, name = collection.database, collection.name
    if name not in database.list_collection_names(filter={"name": name}):
        database.create_collection(name, validator=VALIDATOR)
    else:
        database.command("collMod", name, validator=VALIDATOR)
