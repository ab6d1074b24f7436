"""The systems that the package brings: the Shapes model, and what the recipes of six systems made of it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from unbox.models.systems import Part, System

TRAILING_V = {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}

SHAPES_TURBO = System(
    name="shapes-turbo",
    title="Shapes at 128 px, few steps",
    base="bundled:shapes-turbo",
    scheduler="EulerAncestralDiscreteScheduler",
    scheduler_config=TRAILING_V,
    prediction="v_prediction",
    steps=4,
    guidance=0.0,
    distilled=True,
    size=128,
    licence="Apache-2.0",
    verified="real weights, bundled",
)
SHAPES_BASE = replace(
    SHAPES_TURBO,
    name="shapes-base",
    title="shapes-turbo in many steps with guidance",
    scheduler="EulerDiscreteScheduler",
    steps=20,
    guidance=2.0,
    distilled=False,
)

#: Sampled in so many steps without guidance, as Lightning's students are.
_FEW = {"guidance": 0.0, "distilled": True}
#: Diff-Instruct*'s generator: x0 in one step from noise at timestep 999.
_ONE_STEP = {
    **_FEW,
    "scheduler": "LCMScheduler",
    "scheduler_config": {"original_inference_steps": 1000},
    "steps": 1,
    "step_counts": (1,),
    "timesteps": {1: (999,)},
}
#: V3's: v-prediction under zero terminal SNR.
_ZERO_SNR = {
    "scheduler": "NativeEulerScheduler",
    "scheduler_config": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    "steps": 28,
}
#: Name -> what it is, its paper, and what its row has beside `shapes-base`'s. Figures: docs/recipes.md.
_ZOO: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    **{
        f"shapes-lightning-{n}step": (
            f"SDXL-Lightning's recipe, {n} step{'s' * (n > 1)}",
            "arXiv:2402.13929",
            {**_FEW, "steps": n, "step_counts": (n,)},
        )
        for n in (1, 2, 4, 8)
    },
    "shapes-v3": ("NovelAI V3's recipe (floor 0)", "arXiv:2409.15997", _ZERO_SNR),
    "shapes-v3-floor-1": ("NovelAI V3's recipe with a floor of 1", "arXiv:2409.15997", _ZERO_SNR),
    "shapes-dpo": ("Diffusion-DPO, bright pictures preferred", "arXiv:2311.12908", {}),
    "shapes-ncp-dpo": ("NCP's DPO, bright pictures preferred", "arXiv:2406.17636", {}),
    "shapes-ncp-cpo": ("NCP's CPO, bright pictures preferred", "arXiv:2406.17636", {}),
    "shapes-ncp-sft": ("NCP's SFT, bright pictures", "arXiv:2406.17636", {}),
    "shapes-distar": ("Diff-Instruct*'s recipe, 1 step", "arXiv:2410.20898", _ONE_STEP),
}


def _zoo() -> Iterator[System]:
    """LoRAs over `shapes-base`."""
    for name, (title, paper, more) in _ZOO.items():
        part = Part("lora", f"bundled:{name}", "")
        told = f"Shapes, {title} (bundled LoRA)"
        yield replace(SHAPES_BASE, name=name, title=told, parts=(part,), paper=paper, **more)


SHAPES_ZOO = tuple(_zoo())
