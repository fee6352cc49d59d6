"""Private PostgreSQL and RabbitMQ together, owned by this process for a while."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from headway_dev.guardian import Guardian
from headway_dev.leftovers import stop_leftovers
from headway_dev.locking import GUARDIAN_SECONDS, directory_lock
from headway_dev.postgres import Postgres
from headway_dev.rabbitmq import RabbitMq
from headway_dev.state import State

DATABASE_VARIABLE = "HEADWAY_DATABASE_URL"
AMQP_VARIABLE = "HEADWAY_AMQP_URL"


class Services:
    """What runs in one directory. `postgres` or `rabbitmq` is None where the environment names one.

    The URLs hold passwords and are not for showing; `address` of each service is.
    """

    def __init__(
        self,
        *,
        directory: Path,
        state: State,
        postgres: Postgres | None,
        rabbitmq: RabbitMq | None,
    ) -> None:
        self.directory = directory
        self.state = state
        self._postgres = postgres
        self._rabbitmq = rabbitmq

    @property
    def database_url(self) -> str:
        """HEADWAY_DATABASE_URL, else the private server's database `headway`."""
        return os.environ[DATABASE_VARIABLE] if self._postgres is None else self._postgres.url

    @property
    def amqp_url(self) -> str:
        """HEADWAY_AMQP_URL, else the private broker's virtual host `headway`."""
        return os.environ[AMQP_VARIABLE] if self._rabbitmq is None else self._rabbitmq.url

    @property
    def postgres(self) -> Postgres:
        """The private PostgreSQL; LookupError if the environment names another one."""
        if self._postgres is None:
            raise LookupError(f"{DATABASE_VARIABLE} is set: there is no private PostgreSQL")
        return self._postgres

    @property
    def rabbitmq(self) -> RabbitMq:
        """The private RabbitMQ; LookupError if the environment names another one."""
        if self._rabbitmq is None:
            raise LookupError(f"{AMQP_VARIABLE} is set: there is no private RabbitMQ")
        return self._rabbitmq

    @property
    def has_postgres(self) -> bool:
        """Whether the PostgreSQL is a private one."""
        return self._postgres is not None

    @property
    def has_rabbitmq(self) -> bool:
        """Whether the RabbitMQ is a private one."""
        return self._rabbitmq is not None

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl` against the private broker and return its output."""
        return self.rabbitmq.rabbitmqctl(*arguments)

    def start(self) -> None:
        """Start what is private and not running; returns when both are ready."""
        for service in (self._postgres, self._rabbitmq):
            if service is not None:
                service.start()

    def stop(self) -> None:
        """Stop what is private, data kept."""
        for service in (self._rabbitmq, self._postgres):
            if service is not None:
                service.stop()

    def erase(self) -> None:
        """Stop what is private and delete its data."""
        if self._rabbitmq is not None:
            self._rabbitmq.erase()
        if self._postgres is not None:
            self._postgres.erase()
        self.state.services.clear()
        self.state.save()


@contextlib.contextmanager
def private_services(
    directory: Path,
    *,
    durable: bool = True,
    start: bool = True,
    postgres_settings: Mapping[str, str] | None = None,
    patience_seconds: float = GUARDIAN_SECONDS,
) -> Iterator[Services]:
    """Own private PostgreSQL and RabbitMQ in this directory, which is made if absent.

    Data, ports and passwords stay there for the next time, which ends first what a crashed owner
    left. Services that HEADWAY_DATABASE_URL and HEADWAY_AMQP_URL name are used in their stead.
    durable=False trades the database's safety for speed (tests). start=False starts nothing yet:
    call `start()` of what is needed. All is stopped at the end, or if this process dies in any way.
    Blocks for about 6 s (0.7 s PostgreSQL, 5 s RabbitMQ). Raises ToolMissing, ServiceFailed, and
    DirectoryBusy while another living process owns the directory, or a dead one's services take
    longer than patience_seconds to end.
    """
    directory = directory.absolute()
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(directory_lock(directory, patience_seconds=patience_seconds))
        # State and configuration files are private one by one; root's PostgreSQL walks through.
        directory.chmod(0o711 if os.getuid() == 0 else 0o700)
        state = State.load(directory)
        stop_leftovers(state)
        stack.callback(Guardian(directory, lock=lock).dismiss)
        services = Services(
            directory=directory,
            state=state,
            postgres=None
            if os.environ.get(DATABASE_VARIABLE)
            else Postgres(
                directory=directory, state=state, durable=durable, settings=postgres_settings
            ),
            rabbitmq=None
            if os.environ.get(AMQP_VARIABLE)
            else RabbitMq(directory=directory, state=state, durable=durable),
        )
        stack.callback(services.stop)
        if start:
            services.start()
        yield services
