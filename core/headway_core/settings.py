"""What the environment says: `HEADWAY_*`, checked together before anything starts.

CoreSettings is what server and worker share; each subclasses it in its own package with the types
and field makers below:

    class ServerSettings(CoreSettings):
        reflection: Flag = flag("HEADWAY_REFLECTION", default=False)

A field says once what it accepts, and the same words are the error message. No message or `repr`
holds a value: any of them may be a secret that went into the wrong variable.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headway_core.errors import SettingsInvalid
from headway_core.setting_types import (
    Address,
    BrokerUrl,
    DatabaseUrl,
    Flag,
    ListenAddress,
    Number,
    Seconds,
    Whole,
)

__all__ = [
    "HANDOFF_SECONDS_MAX",
    "Address",
    "CoreSettings",
    "Flag",
    "ListenAddress",
    "LogFormat",
    "LogLevel",
    "Number",
    "Seconds",
    "Whole",
    "address",
    "flag",
    "load",
    "number",
    "seconds",
    "unknown_names",
    "whole",
]

PREFIX: Final = "HEADWAY_"
HANDOFF_SECONDS_MAX: Final = 900
"""RabbitMQ's default `consumer_timeout` is 1,800 s: half of it leaves room for its minute tick."""

NAMES: Final = frozenset(
    PREFIX + name
    for name in (
        "AMQP_URL",
        "DATABASE_URL",
        "DRAIN_SECONDS",
        "FAILPOINTS",
        "GRACE_SECONDS",
        "HANDOFF_SECONDS",
        "HEARTBEAT_SECONDS",
        "LEASE_SECONDS",
        "LISTEN",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "METRICS_LISTEN",
        "QUEUE_DEPTH_MAX",
        "REFLECTION",
        "RETENTION_DAYS",
        "STARVATION_SECONDS",
        "TARGET",
        "TRACES_PER_SECOND",
        "TRACE_DIR",
    )
)
"""Settings of any Headway process. One environment often serves several of them, so none of these
is a typing error where it has no effect."""

TOOL_PREFIXES: Final = (
    "HEADWAY_BENCH_",
    "HEADWAY_DEMO_",
    "HEADWAY_DEV_",
    "HEADWAY_EXAMPLES_",
    "HEADWAY_TEST_",
)
"""What commands for developers and the examples read; they are not listed one by one."""

HEARTBEAT_TOO_SLOW: Final = (
    "HEADWAY_HEARTBEAT_SECONDS must be less than half of HEADWAY_LEASE_SECONDS, "
    "so that a lease outlives a lost heartbeat"
)


class LogFormat(StrEnum):
    """How log lines look. AUTO is CONSOLE on a terminal and JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    """The least severe lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def seconds(name: str, *, default: float, least: float, most: float) -> Any:
    """Make a field for Seconds: a `timedelta`, written as decimal seconds."""
    return Field(
        default=timedelta(seconds=default),
        alias=name,
        description=f"seconds as a decimal, {least:.9g} to {most:.9g}",
        ge=timedelta(seconds=least),
        le=timedelta(seconds=most),
    )


def number(name: str, *, default: float, least: float, most: float) -> Any:
    """Make a field for a Number: a `float`, written as a decimal."""
    description = f"a decimal number, {least:.9g} to {most:.9g}"
    return Field(default=default, alias=name, description=description, ge=least, le=most)


def whole(name: str, *, default: int | None, least: int, most: int) -> Any:
    """Make a field for a Whole, or for `Whole | None` if there may be none."""
    description = f"a whole number, {least} to {most}"
    return Field(default=default, alias=name, description=description, ge=least, le=most)


def flag(name: str, *, default: bool) -> Any:
    """Make a field for a Flag: a `bool`, of which exactly `true` and `false` are taken."""
    return Field(default=default, alias=name, description="true or false")


def address(name: str, *, default: Address | None) -> Any:
    """Make a field for a ListenAddress, or for `ListenAddress | None` if there may be none."""
    description = "HOST:PORT, for example 127.0.0.1:50051"
    return Field(default=default, alias=name, description=description)


class CoreSettings(BaseModel):
    """What every server and worker process needs to know.

    A field without a default also needs an example, which stands in for it while the others are
    checked against each other.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    database_url: DatabaseUrl = Field(
        alias="HEADWAY_DATABASE_URL",
        description="postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
        examples=["postgresql://localhost/headway"],
    )
    amqp_url: BrokerUrl = Field(
        alias="HEADWAY_AMQP_URL",
        description="amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps://…",
        examples=["amqp://localhost/"],
    )
    lease: Seconds = seconds("HEADWAY_LEASE_SECONDS", default=15, least=1, most=600)
    heartbeat: Seconds = seconds("HEADWAY_HEARTBEAT_SECONDS", default=5, least=0.1, most=200)
    drain: Seconds = seconds("HEADWAY_DRAIN_SECONDS", default=30, least=0, most=86_400)
    trace_dir: Path | None = Field(
        default=None, alias="HEADWAY_TRACE_DIR", description="a directory for trace files"
    )
    traces_per_second: Number = number(
        "HEADWAY_TRACES_PER_SECOND", default=100, least=0, most=1_000_000
    )
    metrics_listen: ListenAddress | None = address("HEADWAY_METRICS_LISTEN", default=None)
    log_format: LogFormat = Field(
        default=LogFormat.AUTO, alias="HEADWAY_LOG_FORMAT", description="auto, json or console"
    )
    log_level: LogLevel = Field(
        default=LogLevel.INFO,
        alias="HEADWAY_LOG_LEVEL",
        description="debug, info, warning or error",
    )

    def contradictions(self) -> list[str]:
        """Say which settings do not go together. Subclasses add theirs to `super()`'s."""
        if self.heartbeat * 2 >= self.lease:
            return [HEARTBEAT_TOO_SLOW]
        return []


SettingsT = TypeVar("SettingsT", bound=CoreSettings)


def load(kind: type[SettingsT], environ: Mapping[str, str] | None = None) -> SettingsT:
    """Read the settings of one process; `environ` stands for `os.environ`.

    A variable that is set but empty counts as not set. Raises SettingsInvalid with all problems,
    each naming its variable and what it accepts.
    """
    environ = os.environ if environ is None else environ
    given = {name: environ[name] for name in _accepted(kind) if environ.get(name)}
    try:
        settings = kind.model_validate(given)
    except ValidationError as error:
        # Not chained: pydantic's own text is of no use here, and its inputs may be secrets.
        raise SettingsInvalid(_problems(kind, given, error)) from None
    if contradictions := settings.contradictions():
        raise SettingsInvalid(contradictions)
    return settings


def unknown_names(kind: type[CoreSettings], environ: Mapping[str, str] | None = None) -> list[str]:
    """Say which `HEADWAY_*` variables mean nothing to any process: typing errors, most likely.

    They are worth a warning and no more, because a newer release may know them.
    """
    environ = os.environ if environ is None else environ
    known = NAMES | _accepted(kind).keys()
    sentences = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or name.startswith(TOOL_PREFIXES):
            continue
        from difflib import get_close_matches  # here: few processes need it, all would keep it

        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        sentences.append(f"{name} is no setting of Headway and has no effect{hint}")
    return sentences


def _accepted(kind: type[CoreSettings]) -> dict[str, str]:
    """Map each variable's name to the words for what it accepts."""
    fields = kind.model_fields.values()
    return {field.alias: field.description or "" for field in fields if field.alias}


def _problems(
    kind: type[CoreSettings], given: Mapping[str, str], error: ValidationError
) -> list[str]:
    accepted = _accepted(kind)
    faults = {}
    for detail in error.errors(include_input=False, include_context=False, include_url=False):
        name = str(detail["loc"][0])
        fault = "is not set" if detail["type"] == "missing" else "cannot be used"
        faults[name] = f"{name} {fault}; it takes {accepted[name]}"
    # The sound ones may still contradict each other: stand-ins take the place of the others.
    sound = {name: value for name, value in given.items() if name not in faults}
    stand_ins = {
        field.alias: field.examples[0]
        for field in kind.model_fields.values()
        if field.alias in faults and field.examples
    }
    contradictions = kind.model_validate(stand_ins | sound).contradictions()
    return [
        *faults.values(),
        *(text for text in contradictions if not any(name in text for name in faults)),
    ]
