"""What a supervisor tells an executor on its command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the supervisor says on the command line."""

    target: str
    worker_id: UUID
    number: int
    """Which of the worker's executors it is, from 0."""
    slots: int
    queues: tuple[str, ...]
    """To consume; empty: those of the handlers."""
    pipe: int
    parent: int

    def arguments(self) -> list[str]:
        """Write it as a command line."""
        return [
            self.target,
            *("--worker-id", str(self.worker_id)),
            *("--number", str(self.number)),
            *("--slots", str(self.slots)),
            *("--queues", ",".join(self.queues)),
            *("--pipe", str(self.pipe)),
            *("--parent", str(self.parent)),
        ]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "Options":
        """Read what `arguments` wrote."""
        parser = argparse.ArgumentParser(prog="headway_worker.executor")
        parser.add_argument("target")
        parser.add_argument("--worker-id", type=UUID, required=True)
        parser.add_argument("--number", type=int, required=True)
        parser.add_argument("--slots", type=int, required=True)
        parser.add_argument("--queues", required=True)
        parser.add_argument("--pipe", type=int, required=True)
        parser.add_argument("--parent", type=int, required=True)
        found = vars(parser.parse_args(arguments))
        found["queues"] = tuple(filter(None, found["queues"].split(",")))
        return cls(**found)
