"""How many pages a statement touches: each is explained (and undone) before it is run."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeAlias

from headway_core.database import Database, Record

Plan: TypeAlias = dict[str, Any]


class _Undo(Exception):
    """Rolls the explained statement back."""


class Explaining(Database):
    """A Database that notes by statement, as `jobs.get`, the pages and milliseconds it took."""

    def note_into(self, notes: dict[str, list[tuple[int, float]]]) -> None:
        """Note from now on."""
        self._notes = notes

    async def fetch(self, query: str, *arguments: object) -> list[Record]:
        """Explain the statement, then run it."""
        await self.explain(query, *arguments)
        return await super().fetch(query, *arguments)

    async def explain(self, query: str, *arguments: object) -> None:
        """Run the statement, note what it took, and undo it."""
        with suppress(_Undo):
            async with self.transaction() as connection:
                explained = await connection.fetchval(
                    f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {query}", *arguments
                )
                found = json.loads(explained)[0]
                name = query.partition("\n")[0].removeprefix("-- ")
                self._notes.setdefault(name, []).append(
                    (_pages(found["Plan"]), found["Execution Time"])
                )
                raise _Undo


def _pages(plan: Plan) -> int:
    """Pages of shared memory, from disk or not.

    A CTE that nothing reads runs at the end, and its pages stand with it alone.
    """
    read = {node["CTE Name"] for node in _nodes(plan) if node["Node Type"] == "CTE Scan"}
    apart = [
        node
        for node in _nodes(plan)
        if node.get("Subplan Name", "").startswith("CTE ") and node["Subplan Name"][4:] not in read
    ]
    return sum(
        node.get("Shared Hit Blocks", 0) + node.get("Shared Read Blocks", 0)
        for node in [plan, *apart]
    )


def _nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)
