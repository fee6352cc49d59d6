"""RabbitMQ: there, ours, of a version we know, with queues as we declare them."""

from collections.abc import AsyncIterator, Sequence

from aio_pika.abc import AbstractConnection
from pydantic import SecretStr

from headway_core.broker import connected
from headway_core.broker_border import LoginRefused
from headway_core.errors import BrokerUnavailable, TopologyMismatch
from headway_core.topology import Topology
from headway_dev.checks.findings import Finding, ok, wrong
from headway_dev.redaction import without_secrets

SUBJECT = "broker"
VERSION_MIN = (3, 10)


async def check_broker(url: str, queues: Sequence[str]) -> AsyncIterator[Finding]:
    """Look at the broker and at those of our queues that it has; makes none that it has not."""
    shown = without_secrets(url)
    try:
        async with connected(SecretStr(url), name="headway-doctor") as connection:
            yield _compare_version(connection, shown)
            async for finding in _compare_queues(connection, queues):
                yield finding
    except LoginRefused:
        yield wrong(
            SUBJECT,
            f"{shown} refuses the user, the password or the virtual host",
            "correct HEADWAY_AMQP_URL; rabbitmqctl list_users, list_vhosts and list_permissions"
            " show what there is",
        )
    except BrokerUnavailable as error:
        if "Connection.OpenOk" in str(error):  # aiormq's words for a refused virtual host
            yield wrong(
                SUBJECT,
                f"{shown}: there is no such virtual host, or this user may not enter it",
                "rabbitmqctl add_vhost NAME, and set_permissions; or correct HEADWAY_AMQP_URL",
            )
            return
        yield wrong(
            SUBJECT,
            f"{shown} cannot be used: {error}",
            "start RabbitMQ, or correct host, port and virtual host in HEADWAY_AMQP_URL"
            " (amqp://USER:PASSWORD@HOST:PORT/VHOST)",
        )
    except ValueError:
        yield wrong(
            SUBJECT,
            "HEADWAY_AMQP_URL is no address",
            "it takes amqp://USER:PASSWORD@HOST:PORT/VHOST",
        )


def _compare_version(connection: AbstractConnection, shown: str) -> Finding:
    transport = connection.transport
    properties = transport.connection.server_properties if transport else {}
    version = properties.get("version")
    text = version.decode() if isinstance(version, bytes) else str(version)
    numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    product = properties.get("product", "an unnamed broker")
    name = product.decode() if isinstance(product, bytes) else str(product)
    if len(numbers) == 2 and numbers < VERSION_MIN:
        return wrong(SUBJECT, f"{name} {text} at {shown} is too old", "use RabbitMQ 3.10 or newer")
    return ok(SUBJECT, f"{name} {text} at {shown}")


async def _compare_queues(
    connection: AbstractConnection, queues: Sequence[str]
) -> AsyncIterator[Finding]:
    topology = Topology(connection)
    sound = 0
    for queue in queues:
        if await topology.ready_count(queue) is None:
            continue  # its first user declares it
        try:
            await topology.declare(queue)
            sound += 1
        except TopologyMismatch as mismatch:
            yield wrong(
                "queues",
                str(mismatch),
                f"stop the workers, then `rabbitmqctl delete_queue {mismatch.queue}`: it is made"
                " anew, and the jobs in it are published again from the database",
            )
    if sound:
        yield ok("queues", f"{sound} of {len(queues)} are declared, as they should be")
