"""Filters are checked by name, and mean in Python what they mean in MongoDB."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.errors import InvalidRequest
from mesh.store.documents import to_filter
from mesh.store.mongo import MongoStore
from mesh.where import MAX_CONDITIONS, MAX_DEPTH, check, matches, parse

# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "field"),
    [
        ({"population": {"$regex": "x"}}, "where.population.$regex"),
        ({"a": {"$gt": 1, "$gtt": 2}}, "where.a.$gtt"),
        ({"$where": "sleep(1)"}, "where.$where"),
        ({"$nor": [{"a": 1}]}, "where.$nor"),
        ({"$expr": {}}, "where.$expr"),
        ({"$or": []}, "where.$or"),
        ({"$or": {"a": 1}}, "where.$or"),
        ({"$and": [{"a": 1}, {"b": {"$in": 5}}]}, "where.$and[1].b.$in"),
        ({"a": {"$in": [1, [2]]}}, "where.a.$in[1]"),
        ({"a": {"b": 1}}, "where.a.b"),
        ({"a": {}}, "where.a"),
        ({"a": [1]}, "where.a"),
        ({"a": {"$eq": {}}}, "where.a.$eq"),
        ({"a": {"$not": 5}}, "where.a.$not"),
        ({"a": {"$exists": 1}}, "where.a.$exists"),
        ({"a": {"$gte": None}}, "where.a.$gte"),
        ({"a": float("nan")}, "where.a"),
        ({"a": 2**63}, "where.a"),
        ({"a": "\ud800"}, "where.a"),
        ({"a": b"x"}, "where.a"),
        ({"a..b": 1}, "where.a..b"),
        ({"a.$b": 1}, "where.a.$b"),
        ({"a.0": 1}, "where.a.0"),
        ({"a\0": 1}, "where.a\0"),
        ({"": 1}, "where."),
        ({1: 1}, "where.1"),
        ([], "where"),
        ("a", "where"),
    ],
)
def test_what_is_not_in_the_language_is_refused_by_name(where: Any, field: str) -> None:
    """The error names the part that is wrong, however deep it is."""
    with pytest.raises(InvalidRequest) as caught:
        check(where)
    assert caught.value.field == field


def test_a_misspelt_operator_gets_the_nearest_one() -> None:
    """The hint corrects, and lists what is allowed."""
    with pytest.raises(InvalidRequest) as caught:
        check({"a": {"$gtee": 1}})
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("did you mean $gte? allowed: $eq $ne")


def test_size_is_limited() -> None:
    """Depth, conditions and list lengths have limits, and exactly the limit is allowed."""
    nested: dict[str, Any] = {"a": 1}
    for _ in range(MAX_DEPTH - 1):
        nested = {"$and": [nested]}
    wide = {"$or": [{"a": n} for n in range(MAX_CONDITIONS)]}
    long = {"a": {"$in": list(range(1_000))}}
    assert [check(nested), check(wide), check(long)] == [nested, wide, long]
    for over in ({"$and": [nested]}, {"$or": [*wide["$or"], {"a": 1}]}, {"a": {"$in": list(range(1_001))}}):
        with pytest.raises(InvalidRequest):
            check(over)


def test_nothing_filters_nothing() -> None:
    """No filter and an empty one are the same."""
    assert check(None) is None
    assert check({}) is None
    assert matches(None)({})
    assert matches({})({"a": 1})


# -- what it means ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "yes", "no"),
    [
        ({"a": 1}, [{"a": 1}, {"a": 1.0}, {"a": [0, 1]}], [{"a": True}, {"a": "1"}, {}, {"a": [[1]]}]),
        ({"a": None}, [{}, {"a": None}, {"a": [None]}], [{"a": 0}, {"a": []}, {"a": {}}]),
        ({"a.b": None}, [{}, {"a": 5}, {"a": {}}, {"a": [{}, {"b": 1}]}], [{"a": [1]}, {"a": {"b": 1}}, {"a": []}]),
        ({"a": {"$gt": 1}}, [{"a": 2}, {"a": [0, 1.5]}], [{"a": "2"}, {"a": True}, {"a": None}, {}, {"a": 1}]),
        ({"a": {"$gt": "b"}}, [{"a": "c"}, {"a": "é"}], [{"a": "B"}, {"a": 3}]),
        ({"a": {"$lt": True}}, [{"a": False}], [{"a": 0}, {"a": True}]),
        ({"a": {"$ne": 1}}, [{}, {"a": 2}, {"a": []}], [{"a": 1}, {"a": [1, 2]}]),
        ({"a": {"$nin": [1, None]}}, [{"a": 2}], [{}, {"a": 1}, {"a": None}]),
        ({"a": {"$not": {"$gt": 1}}}, [{}, {"a": 1}, {"a": "x"}], [{"a": 2}, {"a": [0, 2]}]),
        ({"a": {"$exists": True}}, [{"a": None}, {"a": []}], [{}]),
        ({"a.b": {"$exists": False}}, [{}, {"a": [1]}, {"a": [{}]}], [{"a": [{"b": None}, {}]}]),
        ({"a": {"$gt": 0, "$lt": 5}}, [{"a": 3}, {"a": [-1, 9]}], [{"a": 5}]),
        ({"$or": [{"a": 1}, {"b": 1}], "c": 1}, [{"b": 1, "c": 1}], [{"a": 1}, {"c": 1}]),
        ({"$and": [{"a": 1}, {}]}, [{"a": 1}], [{}]),
    ],
)
def test_meaning(where: Any, yes: list[Any], no: list[Any]) -> None:
    """The cases where MongoDB surprises: null, arrays, types, negations."""
    test = matches(check(where))
    assert [properties for properties in yes if not test(properties)] == []
    assert [properties for properties in no if test(properties)] == []


_names = st.sampled_from(["a", "b"])
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0**53, 1e300]),
    st.sampled_from([2**53, 2**53 + 1, -(2**63), 2**63 - 1]),
    st.sampled_from(["", "a", "b", "B", "é", "\U0001f600", "\uffff"]),
)  # fmt: skip
_ordered = _scalars.filter(lambda scalar: scalar is not None)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=2), max_leaves=6
)
_documents = st.dictionaries(_names, _values, max_size=2)
_paths = st.sampled_from(["a", "b", "a.b", "a.a", "b.a", "a.b.a"])
_operators = st.recursive(
    st.one_of(
        *(st.fixed_dictionaries({name: _scalars}) for name in ("$eq", "$ne")),
        *(st.fixed_dictionaries({name: _ordered}) for name in ("$gt", "$gte", "$lt", "$lte")),
        *(st.fixed_dictionaries({name: st.lists(_scalars, max_size=3)}) for name in ("$in", "$nin")),
        st.fixed_dictionaries({"$exists": st.booleans()}),
        st.fixed_dictionaries({"$gt": _ordered, "$lt": _ordered}),
    ),
    lambda inner: st.fixed_dictionaries({"$not": inner}),
    max_leaves=2,
)
_conditions = st.dictionaries(_paths, _scalars | _operators, min_size=1, max_size=2)
_wheres = st.recursive(
    _conditions,
    lambda inner: st.dictionaries(
        st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3), min_size=1
    ),
    max_leaves=4,
)


_SCALARS: list[Any] = [
    None, False, True, -1, 0, 1, 1.5, 2**53, 2**53 + 1, 2.0**53, 2**63 - 1, -0.0, 1e300,
    "", "a", "b", "B", "\u00e9", "\U0001f600", "\uffff", "0",
]  # fmt: skip


def _every_document() -> list[dict[str, Any]]:
    values = [
        *_SCALARS, [], {}, *([scalar] for scalar in _SCALARS), [[1]], [[None]], [0, "b"], [None, 1.5], [False, "a", 1],
        [{"b": 1}, 5], [{}, {"b": 1}], [{"b": [1, "a"]}], [[{"b": 1}]], [{"b": None}, {"b": 2}], [[], 1], [{}],
    ]  # fmt: skip
    return [{}, *({"a": value} for value in values), *({"a": {"b": value}} for value in values), {"a": {"c": 1}}]


def _every_filter() -> list[dict[str, Any]]:
    operators: list[dict[str, Any]] = [
        {name: scalar}
        for name in ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte")
        for scalar in _SCALARS
        if scalar is not None or name in {"$eq", "$ne"}
    ]
    operators += [{name: [x, y]} for name in ("$in", "$nin") for x in _SCALARS for y in (None, 1, "a")]
    operators += [{"$exists": True}, {"$exists": False}, {"$in": []}, {"$nin": []}, {"$gt": 0, "$lt": 1.2}]
    operators += [{"$not": operator} for operator in operators]
    return [{path: operator} for path in ("a", "a.b") for operator in operators]


def _store(store: MongoStore, documents: list[dict[str, Any]]) -> None:
    places = store._collection()
    places.delete_many({})
    loc = {"type": "Point", "coordinates": [0.0, 0.0]}
    places.insert_many([{"_id": str(n), "loc": loc, "props": p, "v": 1} for n, p in enumerate(documents)])


def _ask(store: MongoStore, where: Any) -> set[int]:
    """Ask twice, for the plan through the wildcard index and the one through ids: they have been known to differ."""
    places, condition = store._collection(), to_filter(where)
    by_index = {int(document["_id"]) for document in places.find(condition, {"_id": 1})}
    by_id = {int(document["_id"]) for document in places.find(condition, {"_id": 1}).sort("_id", 1)}
    assert by_index == by_id, where
    return by_id


@pytest.mark.mongo
@pytest.mark.slow
def test_mongodb_means_the_same_by_every_operator(mongo_store: MongoStore) -> None:
    """Each operator with each kind of value on each kind of document, missing, null, nested and in lists."""
    documents = _every_document()
    _store(mongo_store, documents)
    for where in _every_filter():
        test = matches(check(where))
        assert _ask(mongo_store, where) == {n for n, properties in enumerate(documents) if test(properties)}, where


@pytest.mark.mongo
@pytest.mark.slow
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(documents=st.lists(_documents, min_size=8, max_size=20), wheres=st.lists(_wheres, min_size=2, max_size=6))
def test_mongodb_means_the_same(mongo_store: MongoStore, documents: list[Any], wheres: list[Any]) -> None:
    """Random filters on random documents match in Python exactly where they do in a real MongoDB with its indexes."""
    _store(mongo_store, documents)
    for where in wheres:
        test = matches(check(where))
        assert _ask(mongo_store, where) == {n for n, properties in enumerate(documents) if test(properties)}, where


# -- the command line's notation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("population>=10000", {"population": {"$gte": 10000}}),
        ("state=NY", {"state": "NY"}),
        ("state == NY", {"state": "NY"}),
        ("kind!=zip", {"kind": {"$ne": "zip"}}),
        ("a=1 and b<2.5", {"a": 1, "b": {"$lt": 2.5}}),
        ("a>1 AND a<=5", {"a": {"$gt": 1, "$lte": 5}}),
        ("a!=1 and a!=2", {"$and": [{"a": {"$ne": 1}}, {"a": {"$ne": 2}}]}),
        ("zip=01001", {"zip": "01001"}),
        ('zip="10001"', {"zip": "10001"}),
        ('name="Rock and Roll" and x=true', {"name": "Rock and Roll", "x": True}),
        ("name=New York", {"name": "New York"}),
        ("a.b=null", {"a.b": None}),
        ("v=NaN", {"v": "NaN"}),
        ('{"a": {"$in": [1, 2]}}', {"a": {"$in": [1, 2]}}),
        ("{}", {}),
    ],
)
def test_people_type_filters(text: str, where: Any) -> None:
    """Comparisons joined by 'and', or JSON."""
    assert parse(text) == where


@pytest.mark.parametrize(
    "text", ["", "a", "a=", "=1", "a=1 and", "a=1 and ", "a>1 b<", "{", '{"a": {"$x": 1}}', "a=[1]", "and"]
)
def test_what_cannot_be_read_says_so(text: str) -> None:
    """A typing error is an invalid request, never another filter."""
    with pytest.raises(InvalidRequest):
        parse(text)
