"""unbox opens few-step SDXL image models: what each transformer block adds, in features, seen and steered.

    import unbox
    model = unbox.load("shapes-turbo")
    store = unbox.collect(model, prompts, "acts/", blocks=["down.2.1", "up.0.1"])
    sae = unbox.fit(store["up.0.1"], k=8, latents=512)
    before, after = model.generate("a red circle", seed=42, edits=[None, sae.feature(7).scale(3)])

The names below are imported when they are first used, so that `import unbox` costs nothing.
"""

from typing import TYPE_CHECKING

from unbox.lazy_package import lazy
from unbox.plugins import PLUGINS

if TYPE_CHECKING:
    from activation_store import Store
    from unbox.capture import collect, record
    from unbox.edit import Edit, Edits, Feature
    from unbox.edits import bind
    from unbox.errors import UnboxError
    from unbox.models import load
    from unbox.prompt import Prompt
    from unbox.sae import SAE, evaluate, fit, load_saes
    from unbox.site import DEFAULT_BLOCKS

PLUGINS["hooks"] = ("unbox.edits.apply",)
PLUGINS["critics"] = ("unbox.ground_truth.shapes_critic",)

lazy(__name__)
