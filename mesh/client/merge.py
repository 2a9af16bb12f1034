"""Answers of several regions made one: ordered, without doubles, and never past what is surely complete."""

import math
from collections.abc import Iterable, Sequence

from mesh.model import Found, Mark, Place

Key = tuple[float, str]


def key(place: Place) -> Key:
    """Return a place's position in an order: by distance where there is one, then by id."""
    return (place.distance or 0.0, place.id)


def mark(place: Place) -> Mark:
    """Return the mark after which the next page starts."""
    return Mark(place.distance or 0.0, place.id)


def newest(places: Iterable[Place]) -> dict[str, Place]:
    """Return the current copy of each id.

    A place that moves into another region exists twice for a moment. Its new copy bears the timestamp of the move, so
    the timestamp decides first, and the version among copies measured at the same time.
    """
    found: dict[str, Place] = {}
    for place in places:
        other = found.get(place.id)
        if other is None or _age(other) < _age(place):
            found[place.id] = place
    return found


def _age(place: Place) -> tuple[float, int]:
    return (-math.inf if place.timestamp is None else place.timestamp, place.version)


def merge(answers: Sequence[Found], limit: int) -> tuple[list[Place], bool]:
    """Return the first *limit* places of all answers in order, and whether there are more."""
    if len(answers) == 1:
        places = answers[0].places
        return places[:limit], answers[0].more or len(places) > limit
    merged = sorted(newest(place for answer in answers for place in answer.places).values(), key=key)
    more = any(answer.more for answer in answers)
    if more:
        # Where a double was dropped, places of a region that was cut off may be missing behind its last one.
        horizon = min(key(answer.places[-1]) for answer in answers if answer.more and answer.places)
        merged = [place for place in merged if key(place) <= horizon]
    return merged[:limit], more or len(merged) > limit


def kth_distance(answers: Sequence[Found], limit: int) -> float:
    """Return the distance in metres of the *limit*-th place, infinity if there are fewer."""
    places, _ = merge(answers, limit) if answers else ([], False)
    return places[-1].distance or 0.0 if len(places) >= limit else math.inf
