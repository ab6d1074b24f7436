"""`python app.py` is `unbox app`."""

import sys

from unbox.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))
