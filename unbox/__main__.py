"""`python -m unbox` is `unbox`."""

import sys

from unbox.cli.main import main

sys.exit(main())
