"""Running user code on the executor's loop or in one of its threads."""

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor

from headway_worker.context import Context
from headway_worker.endings import Ending, Raised, awaited, called
from headway_worker.registry import HandlerFunction
from headway_worker.running import Run


async def run_on_loop(
    run: Run, function: HandlerFunction, context: Context, payload: object
) -> Ending:
    """Await an `async def` handler. A stop cancels it; the watchdog sees to one that goes on."""
    # A task of its own: whatever user code does to its task (cancel, uncancel, a swallowed
    # CancelledError), the task that settles the run is out of its reach.
    task = asyncio.get_running_loop().create_task(awaited(function, context, payload))
    run.task = task
    run.on_stop = task.cancel
    run.code_running = True
    if run.stop is not None:
        task.cancel()
    ending: Ending
    try:
        ending = await task  # a cancellation of ours is passed on to it, and comes back below
    except asyncio.CancelledError as error:
        ending = Raised(error)
    run.on_stop = None
    run.code_running = False
    ours = asyncio.current_task()
    if ours is not None and ours.cancelling():
        raise asyncio.CancelledError
    return ending


async def run_in_thread(
    run: Run,
    function: HandlerFunction,
    context: Context,
    payload: object,
    *,
    threads: ThreadPoolExecutor,
) -> Ending:
    """Call a `def` handler in a thread. A stop is a flag to look at: no thread can be killed."""
    inherited = contextvars.copy_context()
    run.code_running = True
    work = asyncio.get_running_loop().run_in_executor(
        threads, inherited.run, called, function, context, payload
    )
    ending = await asyncio.shield(work)
    run.code_running = False
    return ending
