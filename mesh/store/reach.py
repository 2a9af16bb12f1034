"""How far one has to look for the nearest places: learned from the answers, by cell of the map.

A circle that surely holds the k nearest costs MongoDB a sixth of `$nearSphere`, which has to find out by itself how far
to go. What is learned here is only a guess of that circle. It decides what an answer costs, never what it is.
"""

import math

#: Degrees: the grids in which density is remembered, the finer one first.
_GRIDS = (0.1, 1.0)
#: Cells remembered at most, in each grid.
_MOST_CELLS = 20_000
#: The guessed circle has this much more area than the last one that was just large enough.
_MARGIN = 2.0
#: Fewer places say too little: who asks for the nearest one often stands on it.
_FEWEST = 4
#: Metres: a larger circle is none worth guessing.
_FARTHEST_M = 300_000.0


class Reach:
    """Remembers how densely places lie."""

    def __init__(self) -> None:
        self._grids: list[dict[tuple[int, int], float]] = [{} for _ in _GRIDS]

    def guess(self, lon: float, lat: float, count: int) -> float | None:
        """Return a radius in metres that probably holds *count* places, None if nothing is known there."""
        for size, cells in zip(_GRIDS, self._grids, strict=True):
            each = cells.get(_cell(lon, lat, size))
            if each is not None:
                radius = math.sqrt(each * count * _MARGIN)
                return radius if radius <= _FARTHEST_M else None
        return None

    def learn(self, lon: float, lat: float, count: int, radius: float) -> None:
        """Note that the *count* nearest places lie within *radius* metres."""
        if count < _FEWEST:
            return
        each = radius * radius / count
        for size, cells in zip(_GRIDS, self._grids, strict=True):
            if len(cells) >= _MOST_CELLS:
                cells.clear()
            cell = _cell(lon, lat, size)
            cells[cell] = (cells.get(cell, each) + each) / 2


def _cell(lon: float, lat: float, size: float) -> tuple[int, int]:
    return math.floor(lon / size), math.floor(lat / size)
