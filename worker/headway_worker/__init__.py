"""What people who write handlers need.

from headway_worker import Context, Jobs, PermanentError, RetryLater
"""

from headway_worker.context import Context
from headway_worker.handler_errors import JobCancelled, PermanentError, RetryLater
from headway_worker.registry import Jobs

__all__ = ["Context", "JobCancelled", "Jobs", "PermanentError", "RetryLater"]
