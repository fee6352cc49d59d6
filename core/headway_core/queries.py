"""Named SQL: `load("jobs").submit` is the query under `-- name: submit` in sql/jobs.sql."""

import re
from collections.abc import Mapping
from importlib.resources import files

_HEADER = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


class Queries:
    """The queries of one file, as attributes."""

    def __init__(self, table: str, texts: Mapping[str, str]) -> None:
        self.table = table
        self.texts = texts

    def __getattr__(self, name: str) -> str:
        try:
            return self.texts[name]
        except KeyError:
            raise AttributeError(f"sql/{self.table}.sql names no query {name!r}") from None


def load(table: str) -> Queries:
    """Read sql/TABLE.sql. Each query keeps its name as a comment, for pg_stat_activity."""
    text = files("headway_core").joinpath("sql", f"{table}.sql").read_text("utf-8")
    parts = _HEADER.split(text)[1:]
    return Queries(
        table,
        {
            name: f"-- {table}.{name}\n{body.strip()}"
            for name, body in zip(parts[::2], parts[1::2], strict=True)
        },
    )
