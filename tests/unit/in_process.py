"""A mesh in one process: a memory store for each region, which drives planners and may be partly down."""

from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

from mesh import validate
from mesh.client import plan
from mesh.errors import MeshError, RegionUnavailable
from mesh.model import Draft, Page, Place
from mesh.regions import RegionMap
from mesh.store.memory import MemoryStore
from mesh.store.perform import perform

FILE = Path(__file__).parents[2] / "inventory" / "regions.geojson"
NEW_YORK = (-74.006, 40.7143)
LOS_ANGELES = (-118.2437, 34.0522)


@cache
def the_map() -> RegionMap:
    """Return the committed region map."""
    return RegionMap.load(FILE)


class Mesh:
    """One store for each region, places in it, and regions that may be down."""

    def __init__(self, drafts: list[Draft] = []) -> None:  # noqa: B006
        self.stores = {name: MemoryStore(name) for name in the_map().names}
        self.down: set[str] = set()
        self.asked: list[list[str]] = []
        self.places: list[Place] = [self.stores[validate.owner(d, the_map())].upsert(d) for d in drafts]

    def answer(self, region: str, operation: Any) -> plan.Reply:
        """Do what the worker of a region does."""
        if region in self.down:
            return RegionUnavailable(f"{region} is down", regions=[region])
        try:
            return perform(self.stores[region], operation)
        except MeshError as error:
            return error

    def run(self, planner: Generator[list[plan.Ask], list[plan.Reply], Any]) -> Any:
        """Drive a planner, and keep which regions it asked in each batch."""
        self.asked = []
        try:
            return self.go_on(planner, next(planner))
        except StopIteration as end:
            return end.value

    def go_on(self, planner: Generator[list[plan.Ask], list[plan.Reply], Any], asks: list[plan.Ask]) -> Any:
        """Drive a planner that has asked to its end."""
        try:
            while True:
                assert asks, "a planner must not yield an empty batch"
                self.asked.append([region for region, _ in asks])
                asks = planner.send([self.answer(*ask) for ask in asks])
        except StopIteration as end:
            return end.value

    def query(self, query: Any, *, require_all: bool = False) -> Page:
        """Plan and answer a query."""
        page = self.run(plan.query(query, the_map(), require_all=require_all))
        assert isinstance(page, Page)
        return page
