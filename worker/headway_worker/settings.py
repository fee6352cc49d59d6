"""The worker's settings."""

from datetime import timedelta

from headway_core.settings import HANDOFF_SECONDS_MAX, CoreSettings, Seconds, seconds


class WorkerSettings(CoreSettings):
    """What a worker reads from the environment; its executors read the same."""

    handoff: Seconds = seconds(
        "HEADWAY_HANDOFF_SECONDS", default=120, least=0.1, most=HANDOFF_SECONDS_MAX
    )
    grace: Seconds = seconds("HEADWAY_GRACE_SECONDS", default=10, least=0.1, most=600)
    """How long code may go on after it was told to stop, before its process is killed."""

    @property
    def silence_max(self) -> timedelta:
        """After this an executor without a word, or without Postgres, is ended."""
        return 2 * self.lease
