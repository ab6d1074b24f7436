"""unbox opens few-step SDXL image models: what each transformer block adds, in features, seen and steered.

    import unbox
    model = unbox.load("shapes-turbo")
    store = unbox.collect(model, prompts, "acts/", blocks=["down.2.1", "up.0.1"])
    sae = unbox.fit(store["up.0.1"], k=8, latents=512)
    before, after = model.generate("a red circle", seed=42, edits=[None, sae.feature(7).scale(3)])

The names below are imported when they are first used, so that `import unbox` costs nothing.
"""

from importlib import import_module
from typing import Any

from unbox.plugins import PLUGINS

#: Public name -> the room it lives in.
_HOME = {
    "DEFAULT_BLOCKS": "unbox.blocks",
    "Edit": "unbox.edit",
    "Edits": "unbox.edit",
    "Feature": "unbox.edit",
    "Prompt": "unbox.prompt",
    "SAE": "unbox.sae",
    "Store": "activation_store",
    "UnboxError": "unbox.errors",
    "bind": "unbox.edits",
    "collect": "unbox.capture",
    "evaluate": "unbox.sae",
    "fit": "unbox.sae",
    "load": "unbox.models",
    "load_saes": "unbox.sae",
    "record": "unbox.capture",
}

__all__ = sorted(_HOME)

PLUGINS["hooks"] = ("unbox.edits.apply",)
PLUGINS["critics"] = ("unbox.ground_truth.shapes_critic",)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unbox' has no attribute '{name}'; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
