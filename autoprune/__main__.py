"""`python -m autoprune` is the command `autoprune`."""

import sys

from autoprune.cli import main

sys.exit(main())
