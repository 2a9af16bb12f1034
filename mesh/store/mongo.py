"""The places of one region in MongoDB: connection and writes; `mongo_reads` has the queries.

Every write is one document and one atomic operation, so nothing here needs a transaction. What depends on the stored
document either says so in the filter (`move`, `delete`), computes inside the server (`upsert`), or writes only over
the version it has read (`update`).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import bson
import pymongo
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, ReturnDocument
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from mesh.errors import (
    ConfigError,
    Conflict,
    InvalidRequest,
    MeshError,
    NotFound,
    StoreError,
    StoreOverloaded,
    StoreUnavailable,
)
from mesh.model import (
    SHAPED_HINT,
    BulkStored,
    Count,
    Draft,
    Find,
    Found,
    Intersects,
    Nearest,
    Place,
    Properties,
    RowError,
    WithinBox,
    WithinPolygon,
    WithinRadius,
)
from mesh.store import indexes, mongo_reads
from mesh.store.access import ANYBODY, Access
from mesh.store.boundary import Boundary, from_write_error, unencodable
from mesh.store.deadline import Deadline
from mesh.store.documents import Document, point, to_document, to_place
from mesh.store.patch import merge_patch, new_id
from mesh.store.reach import Reach

COLLECTION = "places"
#: What the driver gets unless the URI says otherwise. Milliseconds.
_OPTIONS: dict[str, Any] = {
    "connectTimeoutMS": 1_000,
    "serverSelectionTimeoutMS": 2_000,  # the driver's 30 s would hold a worker's slot that long for a dead shard
    "timeoutMS": 10_000,  # for operations whose caller set no time limit; also ends a walk over the sphere
    "maxPoolSize": 16,
    "retryReads": False,  # the mesh repeats reads, elsewhere if need be
    "retryWrites": True,  # the mesh cannot repeat a write as safely as the driver: the server knows its number
    "w": "majority",
}
_BATCH = 1_000
_MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
_ATTEMPTS = 100
_GOODBYE_SECONDS = 0.2


class MongoStore:
    """A `Store` in MongoDB, for any number of threads of one process; connects when first used, never before a fork."""

    def __init__(self, uri: str, region: str, database: str = "mesh", access: Access = ANYBODY) -> None:
        self.region = region
        self._uri, self._database, self._access = uri, database, access
        self._deadline = Deadline()
        self._boundary = Boundary(self._deadline)
        self._reach = Reach()
        self._lock = Lock()
        self._client: MongoClient[Any] | None = None
        self._places: Collection[Any] | None = None

    @contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        """Bound everything this thread does with the store inside the block."""
        # pymongo takes 0 for "no limit"; what is over already is refused by the boundary.
        with self._deadline.limit(seconds), pymongo.timeout(max(seconds, 0.001)):
            yield

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        with self._lock:
            client, self._client, self._places = self._client, None, None
        if client is not None:
            # close() says goodbye to the server, and waits two seconds for one that is gone.
            with pymongo.timeout(_GOODBYE_SECONDS):
                client.close()

    # -- reads ----------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Place:  # noqa: A002
        """Return one place."""
        with self._boundary:
            return self._present(id, self._collection().find_one({"_id": id}))

    def get_many(self, ids: Sequence[str]) -> list[Place]:
        """Return those that exist, in the order asked."""
        with self._boundary:
            cursor = self._collection().find({"_id": {"$in": list(ids)}}).batch_size(len(ids) + 1)
            held = {document["_id"]: to_place(document, self.region) for document in cursor}
        return [held[id_] for id_ in ids if id_ in held]

    def nearest(self, query: Nearest) -> Found:
        """Return the nearest places."""
        with self._boundary:
            return mongo_reads.nearest(self._collection(), self.region, query, self._reach)

    def within_radius(self, query: WithinRadius) -> Found:
        """Return the places within a radius, nearest first."""
        with self._boundary:
            return mongo_reads.within_radius(self._collection(), self.region, query)

    def within_box(self, query: WithinBox) -> Found:
        """Return the places in a box."""
        with self._boundary:
            return mongo_reads.within_box(self._collection(), self.region, query)

    def within_polygon(self, query: WithinPolygon) -> Found:
        """Return the places in a polygon."""
        with self._boundary:
            return mongo_reads.within_polygon(self._collection(), self.region, query)

    def intersects(self, query: Intersects) -> Found:
        """Return the places whose geometry touches the given one."""
        with self._boundary:
            return mongo_reads.intersects(self._collection(), self.region, query)

    def find(self, query: Find) -> Found:
        """Return the places whose properties match."""
        with self._boundary:
            return mongo_reads.find(self._collection(), self.region, query)

    def count(self, query: Count) -> int:
        """Count the places whose properties match."""
        with self._boundary:
            return mongo_reads.count(self._collection(), query.where)

    # -- writes ---------------------------------------------------------------------------------------------------

    def insert(self, place: Draft) -> Place:
        """Store a new place."""
        document = to_document(place, place.id or new_id(self.region))
        with self._boundary:
            self._collection().insert_one(document)
        return to_place(document, self.region)

    def insert_many(self, places: Sequence[Draft]) -> BulkStored:
        """Store new places by the thousand, each on its own."""
        ids: list[str | None] = []
        errors: list[RowError] = []
        for start in range(0, len(places), _BATCH):
            stored, failed = self._insert_batch(places[start : start + _BATCH])
            ids.extend(stored)
            errors.extend(RowError(start + row, error.to_dict()) for row, error in sorted(failed.items()))
            if not any(ids) and any(isinstance(error, StoreUnavailable) for error in failed.values()):
                raise failed[min(failed)]
        return BulkStored(ids, errors)

    def upsert(self, place: Draft) -> Place:
        """Store a place, replacing what has its id."""
        document = to_document(place, place.id or new_id(self.region))
        grown = {"$add": [{"$max": [{"$ifNull": ["$v", 0]}, place.version]}, 1]}
        # $literal: in a pipeline, a text that starts with $ is the name of a field.
        literals = {name: {"$literal": value} for name, value in document.items() if name != "v"}
        pipeline = [{"$replaceWith": {**literals, "v": grown}}]
        for _ in range(_ATTEMPTS):
            try:
                return self._change(document["_id"], {}, pipeline, upsert=True) or self._lost(document["_id"])
            except Conflict:
                continue  # two upserts of a new id at once: one of them inserted it in between
        raise StoreOverloaded("too many writers of one place")

    def update(self, id: str, patch: Properties) -> Place:  # noqa: A002
        """Merge a patch into the properties."""
        for _ in range(_ATTEMPTS):
            held = self.get(id)
            properties = merge_patch(held.properties, patch)
            changed = self._change(id, {"v": held.version}, {"$set": {"props": properties}, "$inc": {"v": 1}})
            if changed is not None:
                return changed
        raise StoreOverloaded("too many writers of one place")

    def move(self, id: str, lon: float, lat: float, timestamp: float) -> Place:  # noqa: A002
        """Set the position, unless a newer one is stored."""
        # $not also matches a place without a timestamp.
        older = {"shape": {"$exists": False}, "ts": {"$not": {"$gte": float(timestamp)}}}
        moved = {"$set": {"loc": point(lon, lat), "ts": float(timestamp)}, "$inc": {"v": 1}}
        changed = self._change(id, older, moved)
        if changed is not None:
            return changed
        held = self.get(id)
        if held.shape is not None:
            raise InvalidRequest("a place with a shape cannot be moved", field="id", hint=SHAPED_HINT)
        return held

    def delete(self, id: str, version: int | None = None) -> None:  # noqa: A002
        """Remove a place."""
        condition = {"_id": id} if version is None else {"_id": id, "v": {"$lte": version}}
        with self._boundary:
            gone = self._collection().delete_one(condition).deleted_count
        if not gone:
            held = self.get(id)
            raise Conflict(f"the stored place has version {held.version}, which is newer", id=id)

    # -- the collection itself ------------------------------------------------------------------------------------

    def ensure_indexes(self) -> indexes.Differences:
        """Create missing indexes and set the validation rules; return how the collection differed before."""
        # Building an index takes as long as it takes; only an explicit time limit bounds it.
        with self._boundary, ExitStack() as stack:
            if self._deadline.remaining() is None:
                stack.enter_context(pymongo.timeout(None))
            return indexes.ensure(self._collection())

    def compare_indexes(self) -> indexes.Differences:
        """Return how the collection's indexes and rules differ from what they should be."""
        with self._boundary:
            return indexes.compare(self._collection())

    def statistics(self) -> dict[str, Any]:
        """Return the number of places and the bytes of documents, disk and each index."""
        with self._boundary:
            said = self._collection().database.command("collStats", COLLECTION)
        return {
            "places": said["count"], "document_bytes": said["size"], "disk_bytes": said["storageSize"],
            "index_bytes": dict(said["indexSizes"]),
        }  # fmt: skip

    @contextmanager
    def all_places(self) -> Iterator[Collection[Any]]:
        """Lend the collection to what moves all of it; that takes as long as it takes."""
        with self._boundary, pymongo.timeout(None):
            yield self._collection()

    # -- how ------------------------------------------------------------------------------------------------------

    def _collection(self) -> Collection[Any]:
        places = self._places if self._places is not None else self._connect()
        client = places.database.client
        if not client.topology_description.has_readable_server(client.read_preference):
            # Under a time limit the driver would wait for a dead shard until that ends, whatever
            # serverSelectionTimeoutMS says; a worker's slot is worth more.
            with pymongo.timeout(client.options.server_selection_timeout):
                client.admin.command("ping", read_preference=client.read_preference)
        return places

    def _connect(self) -> Collection[Any]:
        given = {name.lower() for name, _ in parse_qsl(urlsplit(self._uri).query)}
        options = {name: value for name, value in _OPTIONS.items() if name.lower() not in given}
        options |= self._access.options(self._database)
        with self._lock:
            if self._places is None:
                try:
                    self._client = MongoClient(self._uri, connect=False, appname=f"mesh-{self.region}", **options)
                except ValueError as error:
                    raise ConfigError(f"MongoDB connection string: {error}", field="uri") from None
                except OSError as error:  # it reads the certificates at once
                    message = f"cannot be read: {(error.strerror or str(error)).lower()}"
                    raise ConfigError(message, file=self._access.ca_file, field="ca_file") from None
                self._places = self._client[self._database][COLLECTION]
            return self._places

    def _present(self, id_: str, document: Document | None) -> Place:
        if document is None:
            raise NotFound("no such place", id=id_)
        return to_place(document, self.region)

    def _change(self, id_: str, condition: Document, change: Any, *, upsert: bool = False) -> Place | None:
        with self._boundary:
            document = self._collection().find_one_and_update(
                {"_id": id_, **condition}, change, upsert=upsert, return_document=ReturnDocument.AFTER
            )
        return to_place(document, self.region) if document else None

    @staticmethod
    def _lost(id_: str) -> Place:
        raise StoreError(f"MongoDB returned nothing for the write of {id_}")

    def _insert_batch(self, places: Sequence[Draft]) -> tuple[list[str | None], dict[int, MeshError]]:
        documents = [to_document(place, place.id or new_id(self.region)) for place in places]
        failed: dict[int, MeshError] = {}
        encoded: dict[int, RawBSONDocument] = {}
        for row, document in enumerate(documents):
            try:
                encoded[row] = _encode(document)
            except (BSONError, OverflowError) as error:
                failed[row] = unencodable(error)
            except InvalidRequest as error:
                failed[row] = error
        failed |= self._insert_encoded(documents, encoded)
        return [None if row in failed else document["_id"] for row, document in enumerate(documents)], failed

    def _insert_encoded(self, documents: list[Document], encoded: dict[int, RawBSONDocument]) -> dict[int, MeshError]:
        rows = list(encoded)
        try:
            with self._boundary, _rows_apart() as details:
                if rows:
                    self._collection().insert_many(list(encoded.values()), ordered=False)
        except StoreUnavailable as error:
            return dict.fromkeys(rows, error)
        found = ((rows[entry["index"]], entry) for entry in details)
        return {row: from_write_error(entry, documents[row]["_id"]) for row, entry in found}


@contextmanager
def _rows_apart() -> Iterator[list[dict[str, Any]]]:
    """Collect the errors of single rows; what failed the whole batch goes on."""
    details: list[dict[str, Any]] = []
    try:
        yield details
    except BulkWriteError as error:
        details.extend(error.details.get("writeErrors", []))
        if error.details.get("writeConcernErrors"):
            raise StoreUnavailable("MongoDB could not confirm the write on a majority of its members") from None


def _encode(document: Document) -> RawBSONDocument:
    # One by one, so that a document that BSON cannot hold fails alone and not with its batch.
    encoded = bson.encode(document)
    if len(encoded) > _MAX_DOCUMENT_BYTES:
        raise InvalidRequest("the document is larger than 16 MB", field="place")
    return RawBSONDocument(encoded)
