"""Ask a broker for a place of its region so often that each of its workers has had its turn; print how often that was.

One question would not do: a region may have more workers than those of the host that was just changed, and the others'
answers would hide that those of this host have none. A broker gives a job to the worker that has been idle longest.
Usage: ask.py BROKER LON LAT REGION, with the Python of a release.
"""

import sys

from mesh import Client
from mesh.errors import MeshError

TURNS = 3
#: Metres. The position is further than this from any other region, so no other one is asked, whatever is wrong there.
NO_FURTHER = 20_000


def main() -> str:
    """Return what went wrong, or nothing."""
    broker, lon, lat, region = sys.argv[1:]
    try:
        with Client(broker, timeout=5) as client:
            count = TURNS * max(2, len(client.status()["workers"]))
            for turn in range(1, count + 1):
                page = client.nearest(lon=float(lon), lat=float(lat), limit=1, max_distance=NO_FURTHER)
                if region in page.failed_regions:
                    return f"question {turn} of {count}: the places of {region} cannot be read"
    except MeshError as error:
        return str(error)
    print(count)
    return ""


sys.exit(main() or 0)
