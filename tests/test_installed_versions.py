"""unbox runs from a checkout that is not installed, and says its version there too."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_version_of_a_checkout_that_is_not_installed():
    """Metadata of every installed package is hidden from the lookup."""
    code = (
        "import importlib.metadata as m\n"
        "def absent(name): raise m.PackageNotFoundError(name)\n"
        "m.version = absent\n"
        "from unbox.installed_versions import version\n"
        "print(version('unbox'))\n"
        "try: version('numpy')\n"
        "except m.PackageNotFoundError: print('absent')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert done.stdout.split() == [project["version"], "absent"], done.stderr
