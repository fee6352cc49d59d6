"""A private RabbitMQ node on free loopback ports, with an epmd of its own."""

import os
import secrets
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from headway_dev import ports, processes
from headway_dev.errors import ServiceFailed
from headway_dev.places import short_hash
from headway_dev.rabbitmq_binaries import RabbitMqBinaries, find_rabbitmq
from headway_dev.service import PortLost, PrivateService
from headway_dev.state import State

USER = "headway"
VHOST = "headway"
READY_SECONDS = 120.0
STOP_SECONDS = 20.0
COMMAND_SECONDS = 60.0
EPMD = "epmd"
PORT_NAMES = ("port", "distribution_port", "epmd_port")
AMQP_GREETING = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"

CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
default_user = {user}
default_pass = {password}
default_vhost = {vhost}
default_permissions.configure = .*
default_permissions.read = .*
default_permissions.write = .*
default_user_tags.administrator = true
log.console = false
log.file = rabbit.log
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 512MB
"""


class RabbitMq(PrivateService):
    """A RabbitMQ of our own, 3.10 to 4.x, as any account, beside any other node and epmd."""

    name = "rabbitmq"

    def __init__(self, *, directory: Path, state: State, durable: bool = True) -> None:
        super().__init__(directory=directory, state=state, durable=durable)
        self._home = directory / "rabbitmq"

    @property
    def port(self) -> int:
        """Its AMQP port."""
        return int(self._settings["port"])

    @property
    def url(self) -> str:
        """The address of the virtual host `headway`, with the password."""
        return self.url_of(VHOST)

    @property
    def address(self) -> str:
        """The address without user and password."""
        return f"amqp://{ports.LOOPBACK}:{self.port}/{VHOST}"

    def url_of(self, vhost: str) -> str:
        """Return the address of another virtual host here, which need not exist."""
        password = self._settings["password"]
        return f"amqp://{USER}:{password}@{ports.LOOPBACK}:{self.port}/{vhost}"

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl` against this node and return its output; 0.6 s, an Erlang start each.

        Raises ServiceFailed with that output when it fails.
        """
        binaries = find_rabbitmq()
        ran = processes.run(
            [binaries.scripts / "rabbitmqctl", "-q", *arguments],
            environment=self._environment(binaries),
            timeout_seconds=COMMAND_SECONDS,
        )
        if ran.returncode != 0:
            raise ServiceFailed(f"rabbitmqctl {arguments[0]} failed:\n{ran.stdout[-2000:]}")
        return ran.stdout

    def replace_vhosts(self, *, old: Sequence[str] = (), new: Sequence[str] = ()) -> None:
        """Delete virtual hosts with all in them, absent ones too, and make new, empty ones.

        Our user has every right in the new. One Erlang call for all: 0.5 s, and 0.05 s for each.
        """
        self.rabbitmqctl(
            "eval",
            f'[catch rabbit_vhost:delete(V, <<"{USER}">>) || V <- {_erlang_names(old)}],'
            f' [begin ok = rabbit_vhost:add(V, <<"{USER}">>),'
            f' ok = rabbit_auth_backend_internal:set_permissions(<<"{USER}">>, V,'
            f' <<".*">>, <<".*">>, <<".*">>, <<"{USER}">>) end || V <- {_erlang_names(new)}], ok.',
        )

    def sync_definitions(self) -> None:
        """Return once a kill loses none of the queues, exchanges and users that are there now.

        RabbitMQ 3.10 answers a declaration before it is safe: killed within a moment of it, one
        node in six forgot the queue, and confirmed messages with it. Where Khepri keeps them, this
        does nothing. 0.6 s.
        """
        self.rabbitmqctl(
            "eval", "case mnesia:sync_log() of ok -> ok; {error, {node_not_running, _}} -> ok end."
        )

    def wipe(self) -> None:
        """Kill it and delete its data: queues, messages, vhosts. Same port and password after."""
        self.kill()
        shutil.rmtree(self._home / "mnesia", ignore_errors=True)

    def erase(self) -> None:
        """Stop it and leave nothing of it on disk."""
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    @property
    def broker_log(self) -> Path:
        """The log that RabbitMQ itself writes; `log` has only what it prints while starting."""
        return self._home / "log" / "rabbit.log"

    def _choose_ports(self, *, keep_seconds: float | None) -> None:
        for name in PORT_NAMES:
            known = self._settings.get(name)
            if known is not None and (
                ports.wait_until_free(int(known), timeout_seconds=keep_seconds or 0)
            ):
                continue
            if keep_seconds is not None:
                raise ServiceFailed(
                    f"port {known} of rabbitmq was taken by another process meanwhile"
                )
            self._settings[name] = ports.free_port()

    def _prepare(self) -> None:
        if "password" not in self._settings:
            # It is set at the first boot of an empty node only, so data without it is of no use.
            shutil.rmtree(self._home, ignore_errors=True)
            self._settings["password"] = secrets.token_urlsafe(24)
        for name in ("home", "log", "mnesia", "conf.d"):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        self._home.chmod(0o700)
        cookie = self._home / "home" / ".erlang.cookie"
        if not cookie.exists():
            _write_private(cookie, secrets.token_hex(16))
            cookie.chmod(0o400)
        configuration = CONFIGURATION.format(
            port=self.port, user=USER, vhost=VHOST, password=self._settings["password"]
        )
        _write_private(self._home / "rabbitmq.conf", configuration)
        _write_private(self._home / "empty.conf", "")
        _write_private(self._home / "enabled_plugins", "[].\n")

    def _launch(self) -> None:
        binaries = find_rabbitmq()
        environment = self._environment(binaries)
        # In the foreground, so that its pid is ours; `erl` would start one that outlives the node.
        epmd_port = str(self._settings["epmd_port"])
        epmd = self._spawn(
            EPMD,
            [binaries.epmd, "-address", ports.LOOPBACK, "-port", epmd_port],
            environment=environment,
            marker=epmd_port,
            stop_signal=signal.SIGTERM,
            stop_seconds=5,
        )
        deadline = time.monotonic() + READY_SECONDS
        while not ports.answers(int(epmd_port)):
            if epmd.poll() is not None or time.monotonic() > deadline:
                raise PortLost
            time.sleep(0.01)
        node = self._spawn(
            self.name,
            [binaries.scripts / "rabbitmq-server"],
            environment=environment,
            marker="rabbitmq-server",
            stop_signal=signal.SIGTERM,  # the script's trap stops the node in good order
            stop_seconds=STOP_SECONDS,
        )
        try:
            self._await_ready(node, timeout_seconds=READY_SECONDS, poll_seconds=0.05)
        except ServiceFailed as error:
            if self._lost_a_port():
                for log in (self.log, self.broker_log):
                    log.unlink(missing_ok=True)
                raise PortLost from error
            self.kill()
            raise ServiceFailed(
                f"{error}\n{self.broker_log}:\n{processes.log_tail(self.broker_log)}"
            ) from error

    def _lost_a_port(self) -> bool:
        # The port for other nodes is looked at before the broker has a log of its own.
        if "dist_port_already_used" in processes.log_tail(self.log):
            return True
        return "eaddrinuse" in processes.log_tail(self.broker_log, lines=200)

    def _is_ready(self) -> bool:
        # The listener opens last, and a frame tells it from any other service.
        return ports.answers(self.port, greeting=AMQP_GREETING, first=METHOD_FRAME)

    def _process_names(self) -> list[str]:
        return [self.name, EPMD]

    def _environment(self, binaries: RabbitMqBinaries) -> dict[str, str]:
        """Everything that would otherwise come from /etc, the home directory or the host's name."""
        home = self._home
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name in {"TMPDIR", "LD_LIBRARY_PATH", "TZ"}
        }
        return {
            **inherited,
            "PATH": binaries.path,
            "HOME": str(home / "home"),
            "LC_ALL": "C.UTF-8",
            # The data directory is named after it, so it must not change from run to run.
            "RABBITMQ_NODENAME": f"headway-{short_hash(self.directory)}@localhost",
            "RABBITMQ_CONF_ENV_FILE": str(home / "empty.conf"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(home / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(home / "rabbit.pid"),
            "RABBITMQ_DIST_PORT": str(self._settings["distribution_port"]),
            "ERL_EPMD_PORT": str(self._settings["epmd_port"]),
            "ERL_EPMD_ADDRESS": ports.LOOPBACK,
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _erlang_names(names: Sequence[str]) -> str:
    return "[" + ",".join(f'<<"{name}">>' for name in names) + "]"
