"""The systems. One row each; every number has its source in docs/systems.md."""

from dataclasses import replace
from difflib import get_close_matches
from typing import Literal

from unbox.errors import UnboxError
from unbox.models.shapes_systems import SHAPES_BASE, SHAPES_TURBO, SHAPES_ZOO
from unbox.models.systems import Part, System

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
REFINER = "stabilityai/stable-diffusion-xl-refiner-1.0"

# Bytes in half precision, from the parameter counts: UNet, CLIP-L, bigG, VAE.
UNET_BYTES = 2 * 2_567_463_684
REFINER_UNET_BYTES = 2 * 2_259_526_660
SDXL_BYTES = UNET_BYTES + 2 * (123_060_480 + 694_659_840 + 83_653_863)
REFINER_BYTES = REFINER_UNET_BYTES + 2 * (694_659_840 + 83_653_863)
NCP_BYTES = 4 * 92_897_280  # rank 64 on the queries, keys, values and outputs of 140 attentions, in float32
# Rank 64 on all convolutions and linears but the ends and the time embedding, in float16.
LORA_BYTES = 393_854_592
# LCM SDXL reads the guidance scale as 256 numbers, beside the 320 of the timestep.
LCM_CONDITION = 2 * 320 * 256

TRAILING = {"timestep_spacing": "trailing"}
ANCESTRAL = "EulerAncestralDiscreteScheduler"
# The 50 timesteps of consistency distillation, of which a run takes some.
CONSISTENCY = {"original_inference_steps": 50}
RAIL = "CreativeML Open RAIL++-M"
ASK = "see the repository"

_SDXL = System(
    name="sdxl-base",
    title="Stable Diffusion XL 1.0 base",
    base=SDXL,
    scheduler_config={"timestep_spacing": "leading", "steps_offset": 1},
    steps=40,
    bytes=SDXL_BYTES,
    unet_bytes=UNET_BYTES,
    paper="arXiv:2307.01952",
    licence=RAIL,
)
_BASE = (
    _SDXL,
    replace(
        _SDXL,
        name="sdxl-refiner",
        title="Stable Diffusion XL 1.0 refiner, image to image",
        base=REFINER,
        image_to_image=True,
        bytes=REFINER_BYTES,
        unet_bytes=REFINER_UNET_BYTES,
    ),
    replace(
        _SDXL,
        name="sdxl-base+refiner",
        title="SDXL base for the first 80% of the schedule, refiner for the rest",
        refiner=REFINER,
        split=0.8,
        refiner_bytes=REFINER_UNET_BYTES,
    ),
)

# Few steps without classifier-free guidance, on the trailing grid.
_DISTILLED = replace(_SDXL, scheduler_config=TRAILING, guidance=0.0, distilled=True)

_TURBO_1 = replace(
    _DISTILLED,
    name="sdxl-turbo",
    title="SDXL Turbo, on diffusers' trailing grid",
    base="stabilityai/sdxl-turbo",
    scheduler=ANCESTRAL,
    steps=1,
    step_counts=(1, 2, 3, 4),
    size=512,
    paper="arXiv:2311.17042",
    licence="Stability AI non-commercial / community licence",
)
_TURBO_2 = replace(
    _TURBO_1,
    name="sdxl-turbo-stability",
    title="SDXL Turbo, on Stability's demo grid 999, 899, 799, 699",
    scheduler="TurboGridScheduler",
)


def _lightning(steps: int, kind: Literal["unet", "lora"]) -> System:
    """SDXL-Lightning: one step predicts x0, the others epsilon; LoRA exists for 2, 4 and 8 steps."""
    lora = kind == "lora"
    file = f"sdxl_lightning_{steps}step_{kind}" + ("_x0" if steps == 1 else "") + ".safetensors"
    return replace(
        _DISTILLED,
        name=f"sdxl-lightning-{steps}step" + ("-lora" if lora else ""),
        title=f"SDXL-Lightning, {steps} step{'s' * (steps > 1)}, {'LoRA' if lora else 'full UNet'}",
        parts=(Part(kind, "ByteDance/SDXL-Lightning", file, LORA_BYTES if lora else UNET_BYTES),),
        scheduler_config={**TRAILING, "prediction_type": "sample"} if steps == 1 else TRAILING,
        prediction="sample" if steps == 1 else "epsilon",
        steps=steps,
        step_counts=(steps,),
        paper="arXiv:2402.13929",
    )


_LIGHTNING = (
    *(_lightning(steps, "unet") for steps in (1, 2, 4, 8)),
    *(_lightning(steps, "lora") for steps in (2, 4, 8)),
)

# Generators sampled by LCM's rule: x0 at each timestep of a fixed grid, fresh noise between.
_LCM = replace(
    _DISTILLED,
    scheduler="LCMScheduler",
    scheduler_config={"original_inference_steps": 100},  # the grids are among these 100 timesteps
    steps=1,
    step_counts=(1,),
    timesteps={1: (399,)},
)
_DMD2_1 = replace(
    _LCM,
    name="dmd2-1step",
    title="DMD2, one step at timestep 399",
    parts=(Part("unet", "tianweiy/DMD2", "dmd2_sdxl_1step_unet_fp16.bin", UNET_BYTES),),
    paper="arXiv:2405.14867",
    licence="CC BY-NC 4.0",
)
_DMD2_4 = replace(
    _DMD2_1,
    name="dmd2-4step",
    title="DMD2, four steps",
    parts=(Part("unet", "tianweiy/DMD2", "dmd2_sdxl_4step_unet_fp16.safetensors", UNET_BYTES),),
    steps=4,
    step_counts=(4,),
    timesteps={4: (999, 749, 499, 249)},
)
_DMD2_LORA = replace(
    _DMD2_4,
    name="dmd2-4step-lora",
    title="DMD2, four steps, LoRA",
    parts=(Part("lora", "tianweiy/DMD2", "dmd2_sdxl_4step_lora_fp16.safetensors", LORA_BYTES),),
)
_DISTAR = replace(
    _LCM,
    name="sdxl-distar-1step",
    title="Diff-Instruct*, one step at timestep 399",
    base="XDG-XHS/distar_long_1step",
    paper="arXiv:2410.20898",
    licence=ASK,
)

# Hyper-SD: of the LoRAs one for each step count but the first, which is for all of them.
_HYPER = replace(_DISTILLED, paper="arXiv:2404.13686", licence=f"{RAIL}; see the repository's LICENSE.md")
_HYPER_1 = replace(
    _LCM,
    name="hyper-sd-1step",
    title="Hyper-SD, one step at timestep 800, full UNet",
    parts=(Part("unet", "ByteDance/Hyper-SD", "Hyper-SDXL-1step-Unet.safetensors", 2 * UNET_BYTES),),
    timesteps={1: (800,)},
    paper=_HYPER.paper,
    licence=_HYPER.licence,
)
_HYPER_UNIFIED = replace(
    _HYPER,
    name="hyper-sd-1step-lora",
    title="Hyper-SD, one to eight steps, unified LoRA",
    parts=(Part("lora", "ByteDance/Hyper-SD", "Hyper-SDXL-1step-lora.safetensors", 787_359_648),),
    scheduler="TCDScheduler",
    scheduler_config=CONSISTENCY,
    eta=1.0,
    steps=1,
    step_counts=tuple(range(1, 9)),
)


def _hyper(steps: int) -> System:
    """Hyper-SD's LoRAs of 2, 4 and 8 steps, by DDIM on the trailing grid."""
    return replace(
        _HYPER,
        name=f"hyper-sd-{steps}step-lora",
        title=f"Hyper-SD, {steps} steps, LoRA",
        parts=(Part("lora", "ByteDance/Hyper-SD", f"Hyper-SDXL-{steps}steps-lora.safetensors", 787_359_648),),
        scheduler="DDIMScheduler",
        # The two others as SDXL ships them; DDIM's own would clip the latents to 1.
        scheduler_config={**TRAILING, "clip_sample": False, "set_alpha_to_one": False},
        steps=steps,
        step_counts=(steps,),
    )


_HYPERS = (_HYPER_1, _HYPER_UNIFIED, *(_hyper(steps) for steps in (2, 4, 8)))

_LCM_LORA = replace(
    _DISTILLED,
    name="lcm-sdxl-lora",
    title="LCM-LoRA for SDXL, two to eight steps",
    parts=(Part("lora", "latent-consistency/lcm-lora-sdxl", "pytorch_lora_weights.safetensors", LORA_BYTES),),
    scheduler="LCMScheduler",
    scheduler_config=CONSISTENCY,
    guidance_limit=2.0,
    steps=4,
    step_counts=tuple(range(2, 9)),
    paper="arXiv:2311.05556",
)
_LCM_FULL = replace(
    _LCM_LORA,
    name="lcm-sdxl",
    title="LCM SDXL, two to eight steps, full UNet that reads the guidance scale",
    parts=(
        Part(
            "unet",
            "latent-consistency/lcm-sdxl",
            "diffusion_pytorch_model.fp16.safetensors",
            UNET_BYTES + LCM_CONDITION,
        ),
    ),
    guidance=8.0,
    guidance_limit=13.0,
    guidance_embedded=True,
    paper="arXiv:2310.04378",
)
_TCD = replace(
    _DISTILLED,
    name="tcd-sdxl-lora",
    title="Trajectory Consistency Distillation, LoRA",
    parts=(Part("lora", "h1t/TCD-SDXL-LoRA", "pytorch_lora_weights.safetensors", LORA_BYTES),),
    scheduler="TCDScheduler",
    scheduler_config=CONSISTENCY,
    eta=0.3,
    steps=4,
    paper="arXiv:2402.19159",
    licence="MIT",
)


def _pcm(steps: int, guided: bool) -> System:
    """Phased Consistency Model: LoRAs for no or small guidance, and for guidance as SDXL has it."""
    kind = "normalcfg" if guided else "smallcfg"
    return replace(
        _TCD,
        name=f"pcm-sdxl-{steps}step{'-cfg' if guided else ''}-lora",
        title=f"Phased Consistency Model, {steps} steps, LoRA for {'usual' if guided else 'small'} guidance",
        parts=(
            Part(
                "lora",
                "wangfuyun/PCM_Weights",
                f"sdxl/pcm_sdxl_{kind}_{steps}step_converted.safetensors",
                LORA_BYTES,
            ),
        ),
        eta=0.0,
        steps=steps,
        step_counts=(steps,),
        guidance=7.5 if guided else 0.0,
        distilled=not guided,
        paper="arXiv:2405.18407",
        licence=ASK,
    )


_PCM = (*(_pcm(steps, False) for steps in (2, 4, 8, 16)), *(_pcm(steps, True) for steps in (4, 8, 16)))

_FLASH = replace(
    _SDXL,
    name="sdxl-flash",
    title="SDXL Flash, six to nine steps with little guidance",
    base="sd-community/sdxl-flash",
    scheduler="DPMSolverSinglestepScheduler",
    scheduler_config={**TRAILING, "lower_order_final": True, "final_sigmas_type": "zero"},
    steps=7,
    step_counts=(6, 7, 8, 9),
    guidance=3.0,
    paper="",
    licence="CreativeML Open RAIL-M",
)

DPO_FILE = "unet/diffusion_pytorch_model.safetensors"
_DPO = replace(
    _SDXL,
    name="sdxl-dpo",
    title="SDXL aligned by Diffusion-DPO (full UNet)",
    parts=(Part("unet", "mhdang/dpo-sdxl-text2image-v1", DPO_FILE, 2 * UNET_BYTES),),  # in float32
    paper="arXiv:2311.12908",
)
_NCP = replace(
    _SDXL,
    name="sdxl-ncp-dpo",
    title="SDXL aligned by DPO in noise-conditioned perception (LoRA)",
    parts=(Part("lora", "alexgambashidze/SDXL_NCP-DPO_v0.1", "", NCP_BYTES),),
    paper="arXiv:2406.17636",
    licence=ASK,
)
_NOVELAI = replace(
    _SDXL,
    name="novelai-v3",
    title="NovelAI V3's schedule (sigma 20000) and v-prediction, on a ZTSNR checkpoint you name",
    base=None,
    scheduler="NativeEulerScheduler",
    scheduler_config={"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    prediction="v_prediction",
    steps=28,
    paper="arXiv:2409.15997",
    licence="no public weights; that of your checkpoint",
)

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        *(SHAPES_TURBO, SHAPES_BASE, *SHAPES_ZOO, *_BASE, _TURBO_1, _TURBO_2, *_LIGHTNING),
        *(_DMD2_1, _DMD2_4, _DMD2_LORA, _DISTAR, *_HYPERS, _LCM_LORA, _LCM_FULL, _TCD, *_PCM, _FLASH),
        *(_DPO, _NCP, _NOVELAI),
    )
}

#: How a checkpoint without a row is sampled: as SDXL base, with the scheduler that it ships.
GENERIC = System(
    name="custom",
    title="a checkpoint without a row, sampled with its own scheduler",
    base=None,
    scheduler="",
    prediction="",
    size=None,
    verified="",
)


def find_system(name: str) -> System:
    """The row of a name. Raises UnboxError with the nearest names."""
    if name in SYSTEMS:
        return SYSTEMS[name]
    near = ", ".join(get_close_matches(name, SYSTEMS, n=3, cutoff=0.5))
    listed = "`unbox models` lists them"
    raise UnboxError(f"there is no system '{name}'; {f'near: {near}; {listed}' if near else listed}")
