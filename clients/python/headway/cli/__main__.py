"""`python -m headway.cli` is the `headway` command."""

import sys

from headway.cli import main

sys.exit(main())
