"""What every test starts from: no network, the same examples on every run, nothing drawn on a screen."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("MPLBACKEND", "Agg")

from hypothesis import settings

# Time limits of single examples say more about the machine than about the code.
settings.register_profile("unbox", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("unbox")
