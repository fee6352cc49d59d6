"""Finding the user's handlers: MODULE:JOBS."""

import importlib
import sys
from pathlib import Path

from headway_worker.registry import Jobs


class NotLoadable(Exception):
    """MODULE:JOBS names nothing usable; the text says what to change."""


def check_target(target: str) -> None:
    """Raise NotLoadable if it does not have the form MODULE:JOBS. Imports nothing."""
    module, separator, name = target.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if not separator or not all(part.isidentifier() for part in parts):
        raise NotLoadable(f"{target!r} is not MODULE:JOBS, for example `examples.app:jobs`")


def load_jobs(target: str) -> Jobs:
    """Import MODULE, with the working directory on the path, and return its JOBS.

    Raises NotLoadable, and whatever the module raises.
    """
    check_target(target)
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    module_name, _, name = target.partition(":")
    found: object = importlib.import_module(module_name)
    for part in name.split("."):
        if not hasattr(found, part):
            raise NotLoadable(f"module {module_name} has no {name}")
        found = getattr(found, part)
    if not isinstance(found, Jobs):
        raise NotLoadable(f"{target} is a {type(found).__name__}; headway_worker.Jobs is wanted")
    if not found.handlers:
        raise NotLoadable(f"{target} has no handlers")
    return found
