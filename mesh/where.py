"""Filters on properties: a checked subset of MongoDB's query language, and its meaning in plain Python.

One language, two engines: `MongoStore` hands a checked filter to MongoDB, every other store asks `matches`. The tests
run both on random filters and documents, so what stands here about arrays and missing fields is measured.

- A path that meets an array of objects means any of them; a condition on an array means any of its elements.
- Negations (`$ne`, `$nin`, `$not`) are the opposite of the whole positive condition, so they match a missing field.
- `null` means null or missing. Order compares only within a type: numbers, strings, booleans; a boolean is no number.

Deliberately not in the language: objects and lists as values (MongoDB compares their fields in stored order, which
JSON does not keep), and numbers as later parts of a path (to MongoDB an index and a field name at once).
"""

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from mesh.errors import InvalidRequest
from mesh.model import Properties, Where

MAX_DEPTH = 8
MAX_CONDITIONS = 64
MAX_LIST = 1_000

_LISTS = {"$and": all, "$or": any}
_ORDER = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}
_CONDITIONS = ("$eq", "$ne", *_ORDER, "$in", "$nin", "$exists", "$not")
_SYMBOLS = {"=": "$eq", "==": "$eq", "!=": "$ne", ">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}

_Test = Callable[[Properties], bool]


def check(where: Any, field: str = "where") -> Where | None:
    """Return *where* if it is a filter of this language, None if it is empty.

    Anything else is an `InvalidRequest` that names the part that is wrong, as a path that starts with *field*.
    """
    if where is None or where == {}:
        return None
    _Check().filter(where, field, 1)
    return dict(where)


def matches(where: Where | None) -> _Test:
    """Compile a checked filter into a predicate on properties."""
    if not where:
        return lambda _: True
    return _every([_compile_entry(name, value) for name, value in where.items()])


def parse(text: str) -> Where:
    """Read a filter as people type it: `population>=10000 and state=NY`, or a JSON object.

    A value is JSON if it reads as JSON (`10`, `true`, `null`, `"01001"`), else the text itself.
    """
    found = _parse_json(text) if text.lstrip().startswith("{") else _join(list(_parse_conditions(text)))
    return check(found) or {}


# -- checking ---------------------------------------------------------------------------------------------------------


class _Check:
    """One walk over a filter; counts conditions over the whole of it."""

    def __init__(self) -> None:
        self.conditions = 0

    def filter(self, where: Any, field: str, depth: int) -> None:
        if not isinstance(where, dict):
            raise InvalidRequest("a filter is an object", field=field, hint='for example {"state": "NY"}')
        self._limit_depth(field, depth)
        for name, value in where.items():
            self._entry(name, value, f"{field}.{name}", depth)

    def _limit_depth(self, field: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"nested deeper than {MAX_DEPTH} levels", field=field)

    def _entry(self, name: Any, value: Any, field: str, depth: int) -> None:
        if name in _LISTS:
            self._list(value, field, depth)
            return
        _check_path(name, field)
        if isinstance(value, dict):
            self._operators(value, field, depth)
        else:
            self._count(field)
            _check_scalar(value, field)

    def _list(self, value: Any, field: str, depth: int) -> None:
        if not isinstance(value, list | tuple) or not value:
            raise InvalidRequest("needs a list of filters, not an empty one", field=field)
        for index, part in enumerate(value):
            self.filter(part, f"{field}[{index}]", depth + 1)

    def _operators(self, value: dict[Any, Any], field: str, depth: int) -> None:
        self._limit_depth(field, depth)
        if not value:
            raise InvalidRequest("an object as a value is not supported", field=field, hint=_allowed(_CONDITIONS))
        for name, operand in value.items():
            self._operator(name, operand, f"{field}.{name}", depth)

    def _operator(self, name: Any, operand: Any, field: str, depth: int) -> None:
        if name not in _CONDITIONS:
            raise InvalidRequest("not an operator of this language", field=field, hint=_suggest(name, _CONDITIONS))
        if name == "$not":
            if not isinstance(operand, dict):
                raise InvalidRequest("needs an object of operators", field=field, hint='as {"$not": {"$gt": 5}}')
            self._operators(operand, field, depth + 1)
            return
        self._count(field)
        _check_operand(name, operand, field)

    def _count(self, field: str) -> None:
        self.conditions += 1
        if self.conditions > MAX_CONDITIONS:
            raise InvalidRequest(f"more than {MAX_CONDITIONS} conditions", field=field)


def _check_path(name: Any, field: str) -> None:
    if not isinstance(name, str) or not name:
        raise InvalidRequest("a property name is a text that is not empty", field=field)
    parts = name.split(".")
    if name.startswith("$"):
        raise InvalidRequest("not an operator that stands here", field=field, hint=_suggest(name, tuple(_LISTS)))
    if any(not part or part.startswith("$") or "\0" in part for part in parts) or not _is_unicode(name):
        raise InvalidRequest("a path has no empty part, no NUL and no part that starts with $", field=field)
    if any(part.isdigit() for part in parts[1:]):
        raise InvalidRequest("a number cannot be part of a path", field=field, hint="a condition sees all elements")


def _check_operand(name: str, operand: Any, field: str) -> None:
    if name == "$exists":
        if not isinstance(operand, bool):
            raise InvalidRequest("needs true or false", field=field)
    elif name in {"$in", "$nin"}:
        _check_choices(operand, field)
    elif name in _ORDER and operand is None:
        # MongoDB's own answer differs with its plan: through a wildcard index, {$gte: null} loses missing fields.
        raise InvalidRequest("null has no order", field=field, hint="use {field: null} for null or missing")
    else:
        _check_scalar(operand, field)


def _check_choices(operand: Any, field: str) -> None:
    if not isinstance(operand, list | tuple):
        raise InvalidRequest("needs a list of values", field=field)
    if len(operand) > MAX_LIST:
        raise InvalidRequest(f"more than {MAX_LIST} values", field=field)
    for index, value in enumerate(operand):
        _check_scalar(value, f"{field}[{index}]")


def _check_scalar(value: Any, field: str) -> None:
    if isinstance(value, list | tuple | dict):
        raise InvalidRequest("lists and objects cannot be compared", field=field, hint="$in takes a list of values")
    if not isinstance(value, str | int | float | bool | None):
        raise InvalidRequest(f"{type(value).__name__} is not a JSON value", field=field)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest("not a finite number", field=field)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidRequest("does not fit into 64 bits", field=field)
    if isinstance(value, str) and not _is_unicode(value):
        raise InvalidRequest("not valid Unicode", field=field)


def _is_unicode(text: str) -> bool:
    # A lone surrogate survives json.loads but no encoder after it.
    return text.isascii() or text.encode(errors="replace") == text.encode(errors="surrogatepass")


def _allowed(names: tuple[str, ...]) -> str:
    return f"allowed: {' '.join(names)}"


def _suggest(name: Any, names: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean {near[0]}? {_allowed(names)}" if near else _allowed(names)


# -- meaning ----------------------------------------------------------------------------------------------------------


def _every(tests: list[_Test]) -> _Test:
    if len(tests) == 1:
        return tests[0]
    return lambda properties: all(test(properties) for test in tests)


def _compile_entry(name: str, value: Any) -> _Test:
    if name in _LISTS:
        parts, combine = [matches(part) for part in value], _LISTS[name]
        return lambda properties: combine(part(properties) for part in parts)
    path = tuple(name.split("."))
    operators = value if isinstance(value, dict) else {"$eq": value}
    return _compile_operators(path, operators)


def _compile_operators(path: tuple[str, ...], operators: dict[str, Any]) -> _Test:
    return _every([_compile_operator(path, name, operand) for name, operand in operators.items()])


def _compile_operator(path: tuple[str, ...], name: str, operand: Any) -> _Test:
    if name == "$not":
        return _negate(_compile_operators(path, operand))
    if name == "$exists":
        present = _present(path)
        return present if operand else _negate(present)
    if name in {"$ne", "$nin"}:
        return _negate(_any_value(path, _equal_to(operand if name == "$nin" else [operand])))
    if name in {"$eq", "$in"}:
        return _any_value(path, _equal_to(operand if name == "$in" else [operand]))
    return _any_value(path, _ordered(name, operand))


def _negate(test: _Test) -> _Test:
    return lambda properties: not test(properties)


_MISSING: Any = object()


def _walk(value: Any, path: tuple[str, ...], depth: int = 0) -> Iterator[Any]:
    """Yield what *path* leads to in *value*, `_MISSING` for each object on the way that lacks the next part."""
    if depth == len(path):
        yield value
    elif isinstance(value, dict):
        if path[depth] in value:
            yield from _walk(value[path[depth]], path, depth + 1)
        else:
            yield _MISSING
    elif isinstance(value, list):
        # Elements that are no objects say nothing at all, not even "missing"; nor do lists inside lists.
        for element in value:
            if isinstance(element, dict):
                yield from _walk(element, path, depth)
    else:
        yield _MISSING


def _present(path: tuple[str, ...]) -> _Test:
    return lambda properties: any(value is not _MISSING for value in _walk(properties, path))


def _any_value(path: tuple[str, ...], test: Callable[[Any], bool]) -> _Test:
    def found(properties: Properties) -> bool:
        for value in _walk(properties, path):
            if any(test(element) for element in value) if isinstance(value, list) else test(value):
                return True
        return False

    if len(path) > 1:
        return found
    name = path[0]

    def found_directly(properties: Properties) -> bool:
        # The common case of one plain property, without the walk: three times as fast.
        value = properties.get(name, _MISSING)
        return any(test(element) for element in value) if isinstance(value, list) else test(value)

    return found_directly


def _kind(value: Any) -> str:
    """Return MongoDB's class of comparison; values of different classes are never equal and never ordered."""
    if value is None or value is _MISSING:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "other"


def _equal_to(values: list[Any]) -> Callable[[Any], bool]:
    # True == 1 in Python and not in MongoDB, so the class is part of the key.
    wanted = {(_kind(value), value) for value in values}
    null = ("null", None) in wanted

    def test(value: Any) -> bool:
        kind = _kind(value)
        return null if kind == "null" else kind != "other" and (kind, value) in wanted

    return test


def _ordered(name: str, operand: Any) -> Callable[[Any], bool]:
    kind, compare = _kind(operand), _ORDER[name]
    return lambda value: _kind(value) == kind and compare(value, operand)


# -- the command line's notation --------------------------------------------------------------------------------------

_CONDITION = re.compile(
    r"""\s*(?P<path>[^\s=!<>]+)\s*(?P<symbol>>=|<=|!=|==|=|>|<)\s*
        (?P<value>"(?:\\.|[^"\\])*"|[^=<>]*?)\s*(?:\s+and\s+|$)""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


def _parse_json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"not JSON: {error}", field="where") from None


def _parse_conditions(text: str) -> Iterator[tuple[str, str, Any]]:
    text, position = text.strip(), 0
    while position < len(text) or position == 0:
        match = _CONDITION.match(text, position)
        if match is None or not match["value"] or match["value"].lower().endswith(" and"):
            rest = text[position:].strip()
            raise InvalidRequest(
                f"cannot read {rest!r}", field="where", hint="write name=value, name>=value, joined by 'and', or JSON"
            )
        yield match["path"], _SYMBOLS[match["symbol"]], _parse_value(match["value"])
        position = match.end()


def _parse_value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


def _join(conditions: list[tuple[str, str, Any]]) -> Where:
    joined: dict[str, dict[str, Any]] = {}
    for path, name, value in conditions:
        joined.setdefault(path, {})
        if name in joined[path]:
            return {"$and": [{path: {name: value}} for path, name, value in conditions]}
        joined[path][name] = value
    return {path: _short(operators) for path, operators in joined.items()}


def _short(operators: dict[str, Any]) -> Any:
    only_equal = set(operators) == {"$eq"} and not isinstance(operators["$eq"], dict)
    return operators["$eq"] if only_equal else operators
