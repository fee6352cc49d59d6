"""What the `headway` script does for `headway worker MODULE:JOBS …`."""

import sys

from headway_worker.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
