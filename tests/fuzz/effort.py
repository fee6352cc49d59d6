"""How much is thrown: little and always the same in `make test`, as much as asked for otherwise."""

import os
from collections import Counter

from hypothesis import HealthCheck, Phase, settings

VARIABLE = "HEADWAY_FUZZ_EXAMPLES"
ASKED = int(os.environ.get(VARIABLE, "0"))
"""Inputs for each test, other ones at each run; 0: the usual few, the same at each run."""

thrown: Counter[str] = Counter()
"""Inputs of this session, by kind."""


def effort(usual: int, *, most: int | None = None) -> settings:
    """Settings for a property: `usual` examples, or those asked for, but never more than `most`."""
    wanted = min(ASKED, most or ASKED) if ASKED else usual
    return settings(
        max_examples=max(wanted, 1),
        derandomize=not ASKED,
        database=None,
        deadline=None,
        print_blob=True,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
