"""What goes to stdout: tables for people, JSON for programs. Messages go to stderr."""

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from headway.cli import documents
from headway.cli.options import Output
from headway.jobs import PayloadOut


def say(message: str) -> None:
    """A message for people."""
    print(message, file=sys.stderr, flush=True)


def write_json(value: object, output: Output) -> None:
    """One document, indented; or, as jsonl, one line, seen by a pipe's reader at once."""
    indent = None if output == "jsonl" else 2
    print(json.dumps(value, indent=indent, ensure_ascii=False), flush=True)


def write_all(values: Iterable[Mapping[str, object]], output: Output) -> None:
    """A list as one array, or as one object a line."""
    if output == "jsonl":
        for value in values:
            write_json(value, output)
    else:
        write_json(list(values), output)


def write_table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Columns as wide as they need; cut to the width of a terminal, never when piped."""
    cells = [tuple(map(clean, row)) for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in (columns, *cells):
            print("  ".join(map(str.ljust, row, widths)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.no_wrap = True
        column.overflow = "ellipsis"
    # The ID comes first and is to be copied: others give way.
    table.columns[0].overflow = "fold"
    table.columns[0].min_width = max((len(row[0]) for row in cells), default=0)
    for row in cells:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def write_fields(fields: Mapping[str, str]) -> None:
    """Names and values, one a line."""
    width = max(map(len, fields))
    for name, value in fields.items():
        print(f"{name:<{width}}  {clean(value)}")


def write_result(result: PayloadOut, output: Output) -> None:
    """A result as it is: JSON, or raw bytes for a file or a pipe."""
    if output == "table" and isinstance(result, bytes):
        if sys.stdout.isatty():
            say(f"{len(result)} bytes; send them to a file: headway result ID > FILE")
        else:
            sys.stdout.buffer.write(result)
            sys.stdout.buffer.flush()
    elif output == "table" and isinstance(result, dict):
        write_json(result, output)
    else:
        write_json(documents.payload(result), output)


def ago(value: datetime | None, now: datetime) -> str:
    """`12s`, `5m`, `3h`, `2d`."""
    return "" if value is None else span(now - value)


def took(value: timedelta) -> str:
    """How long a run took, to a tenth of a second if it was short."""
    seconds = value.total_seconds()
    return f"{max(0.0, seconds):.1f}s" if seconds < 60 else span(value)


def span(value: timedelta) -> str:
    """The largest fitting unit: `0s`, `59s`, `5m`, `47h`, `3d`."""
    seconds = max(0, int(value.total_seconds()))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m"
    if seconds < 48 * 3600:
        return f"{seconds // 3600}h"
    return f"{seconds // 86400}d"


def clean(text: str) -> str:
    """One line without control characters: a job's words must not steer the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
