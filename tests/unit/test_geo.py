"""Pure geometry on the sphere."""

import math

import numpy as np
import pytest

from mesh.geo import (
    EARTH_RADIUS_M,
    HALF_CIRCUMFERENCE_M,
    covering_circle,
    distance,
    distances,
    split_box,
    unit_vector,
    unit_vectors,
)

NEW_YORK = (-74.006, 40.7143)
LOS_ANGELES = (-118.24368, 34.05223)


def sphere(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions spread evenly over the sphere."""
    random = np.random.default_rng(seed)
    return random.uniform(-180, 180, count), np.degrees(np.arcsin(random.uniform(-1, 1, count)))


@pytest.mark.parametrize(
    ("place", "metres"),
    [
        # mongod 6.0.5, geoNearDistance from (-73.99, 40.73).
        ((-74.0, 40.73), 843.5661858870872),
        ((-73.99, 40.74), 1113.188450214856),
        ((-118.24368, 34.05223), 3941353.5141333393),
        ((-73.99, -40.73), 9068033.115447344),
        ((106.01, -40.73), 20037392.10386106),
    ],
)
def test_distances_are_those_of_mongodb_to_the_last_bit(place: tuple[float, float], metres: float) -> None:
    """A distance computed here equals, as a double, what MongoDB's index reports for the same two positions."""
    assert distance(-73.99, 40.73, *place) == metres


def test_a_distance_is_a_metric() -> None:
    """Distances are symmetric, zero to oneself, at most half round the earth, and obey the triangle inequality."""
    lons, lats = sphere(300, 1)
    points = list(zip(lons.tolist(), lats.tolist(), strict=True))
    for a, b, c in zip(points[::3], points[1::3], points[2::3], strict=True):
        assert distance(*a, *b) == distance(*b, *a)
        assert distance(*a, *a) == 0.0
        assert distance(*a, *c) <= distance(*a, *b) + distance(*b, *c) + 1e-6
        assert distance(*a, *b) <= HALF_CIRCUMFERENCE_M


def test_antipodes_and_poles_have_exact_distances() -> None:
    """The formula is stable where haversine or an arc cosine is not."""
    assert distance(0, 0, 180, 0) == pytest.approx(math.pi * EARTH_RADIUS_M, abs=1e-6)
    assert distance(0, 90, 123, -90) == pytest.approx(math.pi * EARTH_RADIUS_M, abs=1e-6)
    assert distance(180, 10, -180, 10) == pytest.approx(0, abs=1e-6)
    assert distance(10, 20, 10 + 1e-9, 20) == pytest.approx(
        math.radians(1e-9) * EARTH_RADIUS_M * math.cos(math.radians(20)), rel=1e-4
    )


def test_many_distances_agree_with_single_ones() -> None:
    """The numpy form differs from the exact one by less than ten nanometres."""
    lons, lats = sphere(5_000, 2)
    single = [distance(*NEW_YORK, lon, lat) for lon, lat in zip(lons.tolist(), lats.tolist(), strict=True)]
    assert np.abs(distances(*NEW_YORK, lons, lats) - single).max() < 1e-8


def test_unit_vectors_have_length_one_and_the_right_axes() -> None:
    """Longitude turns from x to y, latitude towards z; one and many agree."""
    lons, lats = sphere(100, 3)
    vectors = unit_vectors(lons, lats)
    assert vectors.shape == (100, 3)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.allclose(unit_vector(float(lons[5]), float(lats[5])), vectors[5])
    assert np.allclose(unit_vector(90, 0), (0, 1, 0))
    assert np.allclose(unit_vector(12, 90), (0, 0, 1))


@pytest.mark.parametrize(
    ("box", "parts"),
    [
        ((-75, 40, -74, 41), [(-75, 40, -74, 41)]),
        ((170, 50, -170, 55), [(170, 50, 180, 55), (-180, 50, -170, 55)]),
        ((175, 0, 185, 1), [(175, 0, 180, 1), (-180, 0, -175, 1)]),
        ((-185, 0, -175, 1), [(175, 0, 180, 1), (-180, 0, -175, 1)]),
        ((-200, 0, 200, 1), [(-180, 0, 180, 1)]),
    ],
)
def test_a_box_is_cut_where_it_crosses_180_degrees(
    box: tuple[float, float, float, float], parts: list[tuple[float, float, float, float]]
) -> None:
    """Each part has west <= east and lies within -180..180."""
    assert split_box(*box) == parts


def test_the_covering_circle_of_a_box_holds_it() -> None:
    """No position of the box is farther from the circle's centre than its radius."""
    random = np.random.default_rng(5)
    for _ in range(300):
        west, east = np.sort(random.uniform(-180, 180, 2)).tolist()
        south, north = np.sort(random.uniform(-90, 90, 2)).tolist()
        lon, lat, radius = covering_circle((west, south, east, north))
        lons, lats = random.uniform(west, east, 200), random.uniform(south, north, 200)
        assert distances(lon, lat, lons, lats).max() <= radius + 1e-6
