"""A private PostgreSQL on a free loopback port."""

import os
import re
import secrets
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from headway_dev import ports, processes
from headway_dev.errors import ServiceFailed
from headway_dev.places import (
    is_reachable_by_others,
    owned_directory,
    shared_temporary,
    short_hash,
    unprivileged_account,
)
from headway_dev.postgres_binaries import ENVIRONMENT, find_postgres
from headway_dev.processes import Account
from headway_dev.service import PortLost, PrivateService
from headway_dev.state import State

USER = "headway"
DATABASE = "headway"
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
# A power cut would cost the data: for tests only, whose data is worth nothing.
FORGETFUL = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Postgres(PrivateService):
    """A PostgreSQL of our own: SCRAM, loopback TCP only, no Unix socket.

    durable=False switches off fsync and its like. settings are added as `-c name=value`. As root it
    runs under an unprivileged account, as PostgreSQL demands.
    """

    name = "postgres"

    def __init__(
        self,
        *,
        directory: Path,
        state: State,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory=directory, state=state, durable=durable)
        self.settings = dict(settings or {})

    @property
    def port(self) -> int:
        """Its loopback port."""
        return int(self._settings["port"])

    @property
    def url(self) -> str:
        """The address of the database `headway`, with the password."""
        return self.url_of(DATABASE)

    @property
    def address(self) -> str:
        """The address without user and password."""
        return f"postgresql://{ports.LOOPBACK}:{self.port}/{DATABASE}"

    def url_of(self, database: str) -> str:
        """Return the address of another database here, which need not exist."""
        password = self._settings["password"]
        return f"postgresql://{USER}:{password}@{ports.LOOPBACK}:{self.port}/{database}"

    def wipe(self) -> None:
        """Kill it and delete all its databases; the next start() makes an empty `headway` again."""
        self.kill()
        shutil.rmtree(self._data, ignore_errors=True)

    def erase(self) -> None:
        """Stop it and leave nothing of it on disk."""
        self.stop()
        shutil.rmtree(self._data, ignore_errors=True)
        if self._data.parent != self.directory:
            shutil.rmtree(self._data.parent, ignore_errors=True)

    @property
    def _data(self) -> Path:
        stored = self._settings.get("data")
        if stored:
            return Path(stored)
        place = self.directory
        if unprivileged_account() is not None and not is_reachable_by_others(self.directory):
            place = shared_temporary() / f"headway-{short_hash(self.directory)}"
        self._settings["data"] = str(place / "postgres-data")
        return place / "postgres-data"

    def _choose_ports(self, *, keep_seconds: float | None) -> None:
        known = self._settings.get("port")
        if known is not None and (
            ports.wait_until_free(int(known), timeout_seconds=keep_seconds or 0)
        ):
            return
        if keep_seconds is not None:
            raise ServiceFailed(f"port {known} of postgres was taken by another process meanwhile")
        self._settings["port"] = ports.free_port()

    def _prepare(self) -> None:
        """Make the cluster if there is none whose password we know."""
        finished = self._data / "headway-made"
        if finished.exists() and "password" in self._settings:
            return
        if self._data.exists():
            shutil.rmtree(self._data)
        self._settings.setdefault("password", secrets.token_urlsafe(24))
        if self._data.parent != self.directory:
            owned_directory(self._data.parent, mode=0o711)
        self._make_cluster(unprivileged_account())
        finished.touch()

    def _make_cluster(self, account: Account | None) -> None:
        binaries = find_postgres(account)
        self._data.mkdir(mode=0o700)
        password_file = self._data.with_name("postgres-password")
        password_file.unlink(missing_ok=True)
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self._settings["password"])
        if account is not None:
            os.chown(self._data, account.uid, account.gid)
            os.chown(password_file, account.uid, account.gid)
        # Bytewise order and Unicode case rules, the same on every system.
        locale = (
            ["--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            if binaries.major >= 17
            else ["--locale=C.UTF-8"]
        )
        try:
            ran = processes.run(
                [
                    *(binaries.directory / "initdb", "-D", self._data, "-U", USER, "-E", "UTF8"),
                    *(*locale, "--auth=scram-sha-256", f"--pwfile={password_file}", "--no-sync"),
                ],
                environment=ENVIRONMENT,
                account=account,
            )
            if ran.returncode == 0:
                ran = processes.run(
                    [binaries.directory / "postgres", "--single", "-D", self._data, "postgres"],
                    environment=ENVIRONMENT,
                    account=account,
                    text=f"CREATE DATABASE {DATABASE}\n",
                )
        finally:
            password_file.unlink(missing_ok=True)
        if ran.returncode != 0:
            raise ServiceFailed(f"initdb failed in {self._data}:\n{ran.stdout[-2000:]}")

    def _launch(self) -> None:
        account = self._owner_of_data()
        binaries = find_postgres(account)
        stored = (self._data / "PG_VERSION").read_text().strip()
        if stored != str(binaries.major):
            raise ServiceFailed(
                f"{self._data} was made by PostgreSQL {stored}, found is {binaries.major};"
                f" point HEADWAY_DEV_POSTGRES_BIN at version {stored}, or delete {self.directory}"
            )
        settings = {
            "listen_addresses": ports.LOOPBACK,
            "unix_socket_directories": "",
            "max_connections": "200",
            **({} if self.durable else FORGETFUL),
            **self.settings,
        }
        log_start = self.log.stat().st_size if self.log.exists() else 0
        child = self._spawn(
            self.name,
            [
                *(binaries.directory / "postgres", "-D", self._data, "-p", str(self.port)),
                *(part for item in settings.items() for part in ("-c", "=".join(item))),
            ],
            environment=ENVIRONMENT,
            marker=str(self._data),
            stop_signal=signal.SIGINT,  # "fast": open sessions are ended, not awaited
            stop_seconds=STOP_SECONDS,
            account=account,
        )
        try:
            self._await_ready(child, timeout_seconds=READY_SECONDS, poll_seconds=0.01)
        except ServiceFailed as error:
            if _lost_its_port(self.log, log_start):
                raise PortLost from error
            raise

    def _owner_of_data(self) -> Account | None:
        # The account of the first run, in case `postgres` was installed since.
        if unprivileged_account() is None:
            return None
        owner = self._data.stat()
        return Account(uid=owner.st_uid, gid=owner.st_gid)

    def _is_ready(self) -> bool:
        # Line 8 of postmaster.pid tells the state; it may be an older one's, hence the pid.
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, PermissionError):
            return False
        record = self.record
        return (
            record is not None
            and len(lines) >= 8
            and lines[0].strip() == str(record.pid)
            and lines[7].strip() == "ready"
            and ports.answers(self.port)
        )

    def _process_names(self) -> list[str]:
        return [self.name]


def _lost_its_port(log: Path, start: int) -> bool:
    with log.open("rb") as file:
        file.seek(start if log.stat().st_size >= start else 0)
        return re.search(rb"could not bind|Address already in use", file.read()) is not None
