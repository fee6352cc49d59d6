"""How processes end, in words."""

import signal


def how_it_ended(code: int) -> str:
    """Say it for people: `was killed by SIGKILL`."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
