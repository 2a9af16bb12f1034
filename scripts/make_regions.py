#!/usr/bin/env python3
"""Make inventory/regions.geojson: the five regions, from the Census Bureau's state outlines in npm's us-atlas.

    scripts/make_regions.py [states-10m.json] [-o inventory/regions.geojson]

Without a path it runs `npm pack us-atlas@3.0.1` in a temporary directory. The same input gives the same bytes.
To redraw the map, change REGIONS, run this, and roll the file out: its digest tells brokers and clients apart.
"""

import argparse
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely import MultiLineString, MultiPolygon, Polygon

SOURCE = "us-atlas@3.0.1"
MEMBER = "package/states-10m.json"
OUTPUT = Path(__file__).resolve().parent.parent / "inventory" / "regions.geojson"
#: Degrees that a line may move (0.01: 1.1 km), found by trial: together they keep all five regions under 3,000
#: vertices, so that the map a client fetches stays near 60 kB and its lower bounds are quick. Borders between regions
#: are the finest: a coast may be coarse, as what lies off it goes to the nearest region anyway.
BORDER_TOLERANCE = 0.015
COAST_TOLERANCE = 0.05
#: Alaska has half of the coast, no neighbour and few people: coarser there buys precision everywhere else.
REMOTE_TOLERANCE = 0.3
REMOTE = (-180.0, 50.0, -129.5, 90.0)
#: Decimals of a degree: 11 m, finer than the grid of the source (300 m by 95 m).
DECIMALS = 4

REGIONS: dict[str, tuple[str, dict[str, str]]] = {
    "ne": ("Northeast", {"CT": "09", "ME": "23", "MA": "25", "NH": "33", "RI": "44", "VT": "50", "NJ": "34",
                         "NY": "36", "PA": "42"}),
    "south": ("South", {"AL": "01", "AR": "05", "DE": "10", "DC": "11", "FL": "12", "GA": "13", "KY": "21",
                        "LA": "22", "MD": "24", "MS": "28", "NC": "37", "SC": "45", "TN": "47", "VA": "51",
                        "WV": "54"}),
    "mw": ("Midwest", {"IL": "17", "IN": "18", "MI": "26", "OH": "39", "WI": "55", "IA": "19", "KS": "20",
                       "MN": "27", "MO": "29", "NE": "31", "ND": "38", "SD": "46"}),
    "sw": ("Southwest and Mountain", {"TX": "48", "OK": "40", "NM": "35", "AZ": "04", "NV": "32", "UT": "49",
                                      "CO": "08", "WY": "56", "ID": "16", "MT": "30"}),
    "ca": ("Pacific", {"CA": "06", "OR": "41", "WA": "53", "AK": "02", "HI": "15"}),
}  # fmt: skip


def fetch(folder: str) -> bytes:
    """Return states-10m.json from the npm package."""
    subprocess.run(["npm", "pack", "--silent", SOURCE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(next(Path(folder).glob("us-atlas-*.tgz"))) as package:
        member = package.extractfile(MEMBER)
        if member is None:
            raise SystemExit(f"{SOURCE} holds no {MEMBER}")
        return member.read()


# -- TopoJSON: delta-coded integer arcs that neighbours share; ~i means arc i backwards ------------------------------


def arcs(topology: dict[str, Any]) -> list[np.ndarray]:
    """Decode the arcs to (n, 2) arrays of lon, lat."""
    scale, translate = (np.array(topology["transform"][key]) for key in ("scale", "translate"))
    return [np.cumsum(np.array(arc), axis=0) * scale + translate for arc in topology["arcs"]]


def ring(indexes: list[int], lines: list[np.ndarray]) -> np.ndarray:
    """Join arcs end to end, the joint once."""
    parts = [lines[index] if index >= 0 else lines[~index][::-1] for index in indexes]
    return np.concatenate([parts[0], *(part[1:] for part in parts[1:])])


def polygons(geometry: dict[str, Any], lines: list[np.ndarray]) -> Iterator[Polygon]:
    """Yield the polygons of one state."""
    parts = [geometry["arcs"]] if geometry["type"] == "Polygon" else geometry["arcs"]
    for shell, *holes in parts:
        yield Polygon(ring(shell, lines), [ring(hole, lines) for hole in holes])


def states(topology: dict[str, Any]) -> dict[str, MultiPolygon]:
    """Return the outline of each state by FIPS code; two (DE, OR) touch themselves and are repaired."""
    lines = arcs(topology)
    members = topology["objects"]["states"]["geometries"]
    return {state["id"]: only_polygons(shapely.union_all(list(repaired(state, lines)))) for state in members}


def repaired(state: dict[str, Any], lines: list[np.ndarray]) -> Iterator[Polygon]:
    """Yield valid polygons."""
    for polygon in polygons(state, lines):
        yield polygon if polygon.is_valid else only_polygons(shapely.make_valid(polygon))


def only_polygons(geometry: shapely.Geometry) -> MultiPolygon:
    """Drop the points and lines that repairs leave behind."""
    parts = shapely.get_parts(geometry)
    return MultiPolygon([part for part in parts if isinstance(part, Polygon)])


# -- regions ------------------------------------------------------------------------------------------------------


def dissolve(outlines: dict[str, MultiPolygon]) -> list[MultiPolygon]:
    """Unite the states of each region; neighbours keep exactly the same border."""
    return [
        only_polygons(shapely.union_all([outlines[code] for code in codes.values()])) for _, codes in REGIONS.values()
    ]


def simplify(regions: list[MultiPolygon]) -> list[MultiPolygon]:
    """Simplify every border once for both sides, put the pieces back together, and round.

    `shapely.coverage_simplify` would keep shared borders too, but bounds the area that moves and not the distance:
    with as many vertices it moved borders by 13 km where this moves them by 1.7 and coasts by 5.6.
    """
    lines = shapely.get_parts(shapely.line_merge(shapely.union_all(shapely.boundary(regions))))
    remote = shapely.intersects(lines, shapely.box(*REMOTE))
    shared = sum(shapely.covered_by(lines, shapely.boundary(region)).astype(int) for region in regions) > 1
    moved = [
        *simplified(lines[shared], BORDER_TOLERANCE),
        *simplified(lines[~shared & ~remote], COAST_TOLERANCE),
        *simplified(lines[remote], REMOTE_TOLERANCE),
    ]
    cells = shapely.get_parts(shapely.polygonize(moved))
    # A thin island may have moved off its own place: nearest, not containing, finds the region it came from.
    far = np.array([shapely.distance(region, shapely.point_on_surface(cells)) for region in regions])
    owner = np.where(far.min(axis=0) <= REMOTE_TOLERANCE, far.argmin(axis=0), -1)
    return [ordered(only_polygons(shapely.union_all(cells[owner == index]))) for index in range(len(regions))]


def simplified(lines: np.ndarray, tolerance: float) -> np.ndarray:
    """Simplify lines together, so that they do not come to cross each other, and round them."""
    simple = shapely.simplify(MultiLineString(list(lines)), tolerance, preserve_topology=True)
    parts: np.ndarray = shapely.get_parts(shapely.transform(simple, lambda xy: np.round(xy, DECIMALS)))
    return parts


def ordered(region: MultiPolygon) -> MultiPolygon:
    """Bring rings, starts and winding (RFC 7946) into one order, so that equal maps are equal bytes."""
    normal = shapely.normalize(region)
    return MultiPolygon([shapely.orient_polygons(part) for part in normal.geoms])


def check(regions: list[MultiPolygon]) -> None:
    """Refuse to write a map with a hole, an overlap or a broken polygon."""
    if not all(shapely.is_valid(region) for region in regions) or not shapely.coverage_is_valid(regions):
        raise SystemExit("simplified regions overlap or cross themselves: lower the tolerances or raise DECIMALS")


def document(regions: list[MultiPolygon]) -> dict[str, Any]:
    """Return the FeatureCollection."""
    return {
        "type": "FeatureCollection",
        "generator": "scripts/make_regions.py",
        "source": f"npm {SOURCE}, {MEMBER.split('/')[1]}: US Census Bureau cartographic boundary files, 2017",
        "licence": "public domain (US Census Bureau); packaging ISC (c) Michael Bostock",
        "simplification": {
            "border_degrees": BORDER_TOLERANCE,
            "border_m": round(BORDER_TOLERANCE * 111_320),
            "coast_degrees": COAST_TOLERANCE,
            "alaska_coast_degrees": REMOTE_TOLERANCE,
            "decimals": DECIMALS,
        },
        "features": [
            {
                "type": "Feature",
                "id": name,
                "properties": {"name": title, "states": list(codes)},
                "geometry": {"type": "MultiPolygon", "coordinates": shapely.geometry.mapping(region)["coordinates"]},
            }
            for (name, (title, codes)), region in zip(REGIONS.items(), regions, strict=True)
        ],
    }


def encode(collection: dict[str, Any]) -> str:
    """Return JSON with one feature a line: small, and a diff shows which region changed."""
    features = ",\n".join(json.dumps(feature, separators=(",", ":")) for feature in collection["features"])
    head = json.dumps({**collection, "features": []}, indent=1)
    return head.replace('"features": []', f'"features": [\n{features}\n]') + "\n"


def main() -> None:
    """Read, dissolve, simplify, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("states", nargs="?", type=Path, help="states-10m.json; fetched from npm when not given")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.states.read_bytes() if arguments.states else fetch(folder)
    regions = simplify(dissolve(states(json.loads(data))))
    check(regions)
    arguments.output.write_text(encode(document(regions)))
    print(f"{arguments.output}: {shapely.get_num_coordinates(regions).sum():,} vertices")


if __name__ == "__main__":
    main()
