"""What a verification was made on and with: device, libraries, weights, licences; nothing of its user."""

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import psutil
import torch

from unbox.installed_versions import version
from unbox.json_types import JSON
from unbox.memory_limit import size_text
from unbox.models.devices import ACCELERATORS, computes_bfloat16
from unbox.models.systems import BUNDLED, System

LIBRARIES = (
    "unbox",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "numpy",
    "triton",
)
#: How weights are had that a repository does not give to everybody.
GATED = (
    "A repository that is gated gives its files to those who have accepted its licence: open its page while "
    "logged in, accept, then `hf auth login` on this machine (or HF_TOKEN in the environment: a token that "
    "may read). "
    "Without a network, copy the Hub's cache here and give --offline."
)


def machine(device: torch.device) -> dict[str, JSON]:
    """The device, the machine and the libraries."""
    found: dict[str, JSON] = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": _device(device),
        "bfloat16 of its own": "yes" if computes_bfloat16(device) else "no",
        "system": platform.platform(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "memory": size_text(psutil.virtual_memory().total),
        "python": sys.version.split()[0],
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
    }
    return {name: value for name, value in found.items() if value is not None} | _versions()


def _device(device: torch.device) -> str:
    """An accelerator's name, memory and capability."""
    if device.type in ("cuda", "xpu"):
        facts = getattr(torch, device.type).get_device_properties(device)
        level = f", compute capability {facts.major}.{facts.minor}" if device.type == "cuda" else ""
        return f"{device}: {facts.name}, {size_text(facts.total_memory)}{level}"
    name = platform.processor() or platform.machine()
    return f"{device}: {name}" + (" (an accelerator)" if device.type in ACCELERATORS else "")


def _versions() -> dict[str, JSON]:
    found: dict[str, JSON] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def weights_facts(system: System, source: str) -> dict[str, JSON]:
    """Where weights come from, and under which licence."""
    repositories = list(dict.fromkeys(need.repo for need in system.needs))
    bundled = system.base is not None and system.base.startswith(BUNDLED)
    if not repositories and not bundled and source:
        place = Path(source).name if Path(source).exists() else source
        repositories = [place]
    return {
        "system": system.name,
        "title": system.title,
        "weights": ", ".join(repositories) or "bundled with unbox",
        "licence": system.licence or "that of the checkpoint",
        "paper": system.paper,
        "read the licence at": [
            f"https://huggingface.co/{repo}" for repo in repositories if repo.count("/") == 1
        ],
    }
