"""The SDK behind the instruments of metrics.py, and the port where Prometheus reads them."""

from collections.abc import Callable

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from prometheus_client import CollectorRegistry, start_http_server

from headway_core.errors import SettingsInvalid
from headway_core.settings import Address


def serve(address: Address, *, service: str) -> tuple[MeterProvider, Callable[[], None]]:
    """Serve what the provider's instruments show, until the returned function is called.

    That blocks for a moment. Raises SettingsInvalid if the address cannot be had.
    """
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    provider = MeterProvider(
        [reader], resource=Resource.create({SERVICE_NAME: service}), shutdown_on_exit=False
    )
    try:
        server, thread = start_http_server(address.port, address.host, registry)
    except OSError as error:
        raise SettingsInvalid([f"HEADWAY_METRICS_LISTEN {address}: {error.strerror}"]) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()
        provider.shutdown()

    return provider, stop
