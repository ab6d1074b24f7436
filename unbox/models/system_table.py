"""The systems. One row each; every number has its source in docs/systems.md."""

from dataclasses import replace
from difflib import get_close_matches

from unbox.errors import UnboxError
from unbox.models.systems import Part, System

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
REFINER = "stabilityai/stable-diffusion-xl-refiner-1.0"

# Bytes in half precision, from the parameter counts: UNet, CLIP-L, bigG, VAE.
SDXL_BYTES = 2 * (2_567_463_684 + 123_060_480 + 694_659_840 + 83_653_863)
REFINER_BYTES = 2 * (2_259_526_660 + 694_659_840 + 83_653_863)
UNET_BYTES = 2 * 2_567_463_684
NCP_BYTES = 4 * 92_897_280  # rank 64 on the queries, keys, values and outputs of 140 attentions, in float32

TRAILING = {"timestep_spacing": "trailing"}
RAIL = "CreativeML Open RAIL++-M"

_BASE = (
    System(
        name="sdxl-base",
        title="Stable Diffusion XL 1.0 base",
        base=SDXL,
        scheduler_config={"timestep_spacing": "leading", "steps_offset": 1},
        steps=40,
        bytes=SDXL_BYTES,
        paper="arXiv:2307.01952",
        licence=RAIL,
    ),
    System(
        name="sdxl-refiner",
        title="Stable Diffusion XL 1.0 refiner, image to image",
        base=REFINER,
        scheduler_config={"timestep_spacing": "leading", "steps_offset": 1},
        steps=40,
        image_to_image=True,
        bytes=REFINER_BYTES,
        paper="arXiv:2307.01952",
        licence=RAIL,
    ),
    System(
        name="sdxl-base+refiner",
        title="SDXL base for the first 80% of the schedule, refiner for the rest",
        base=SDXL,
        refiner=REFINER,
        split=0.8,
        scheduler_config={"timestep_spacing": "leading", "steps_offset": 1},
        steps=40,
        bytes=SDXL_BYTES,
        refiner_bytes=REFINER_BYTES,
        paper="arXiv:2307.01952",
        licence=RAIL,
    ),
)

_TURBO = tuple(
    System(
        name=name,
        title=title,
        base="stabilityai/sdxl-turbo",
        scheduler=scheduler,
        scheduler_config=TRAILING,
        steps=1,
        step_counts=(1, 2, 3, 4),
        guidance=0.0,
        distilled=True,
        size=512,
        bytes=SDXL_BYTES,
        paper="arXiv:2311.17042",
        licence="Stability AI non-commercial / community licence",
    )
    for name, title, scheduler in (
        ("sdxl-turbo", "SDXL Turbo, on diffusers' trailing grid", "EulerAncestralDiscreteScheduler"),
        (
            "sdxl-turbo-stability",
            "SDXL Turbo, on Stability's demo grid 999, 899, 799, 699",
            "TurboGridScheduler",
        ),
    )
)


def _lightning(steps: int, kind: str) -> System:
    """SDXL-Lightning: one step predicts x0, the others epsilon; LoRA exists for 2, 4 and 8 steps."""
    lora = kind == "lora"
    file = f"sdxl_lightning_{steps}step_{kind}" + ("_x0" if steps == 1 else "") + ".safetensors"
    return System(
        name=f"sdxl-lightning-{steps}step" + ("-lora" if lora else ""),
        title=f"SDXL-Lightning, {steps} step{'s' * (steps > 1)}, {'LoRA' if lora else 'full UNet'}",
        base=SDXL,
        parts=(Part(kind, "ByteDance/SDXL-Lightning", file, 393_854_592 if lora else UNET_BYTES),),
        scheduler_config={**TRAILING, "prediction_type": "sample"} if steps == 1 else TRAILING,
        prediction="sample" if steps == 1 else "epsilon",
        steps=steps,
        step_counts=(steps,),
        guidance=0.0,
        distilled=True,
        bytes=SDXL_BYTES,
        paper="arXiv:2402.13929",
        licence=RAIL,
    )


_LIGHTNING = (
    *(_lightning(steps, "unet") for steps in (1, 2, 4, 8)),
    *(_lightning(steps, "lora") for steps in (2, 4, 8)),
)


# Generators sampled by LCM's rule: x0 at each timestep of a fixed grid, fresh noise between.
_LCM = System(
    name="",
    title="",
    base=SDXL,
    scheduler="LCMScheduler",
    scheduler_config={"original_inference_steps": 100},  # the grids are among these 100 timesteps
    steps=1,
    step_counts=(1,),
    timesteps={1: (399,)},
    guidance=0.0,
    distilled=True,
    bytes=SDXL_BYTES,
)

_ONE_STEP = (
    replace(
        _LCM,
        name="dmd2-1step",
        title="DMD2, one step at timestep 399",
        parts=(Part("unet", "tianweiy/DMD2", "dmd2_sdxl_1step_unet_fp16.bin", UNET_BYTES),),
        paper="arXiv:2405.14867",
        licence="CC BY-NC 4.0",
    ),
    replace(
        _LCM,
        name="dmd2-4step",
        title="DMD2, four steps",
        parts=(Part("unet", "tianweiy/DMD2", "dmd2_sdxl_4step_unet_fp16.bin", UNET_BYTES),),
        steps=4,
        step_counts=(4,),
        timesteps={4: (999, 749, 499, 249)},
        paper="arXiv:2405.14867",
        licence="CC BY-NC 4.0",
    ),
    replace(
        _LCM,
        name="sdxl-distar-1step",
        title="Diff-Instruct*, one step at timestep 399",
        base="XDG-XHS/distar_long_1step",
        paper="arXiv:2410.20898",
        licence="see the repository",
    ),
)

_ALIGNED = tuple(
    System(
        name=name,
        title=title,
        base=SDXL,
        parts=(part,),
        scheduler_config={"timestep_spacing": "leading", "steps_offset": 1},
        steps=40,
        bytes=SDXL_BYTES,
        paper=paper,
        licence=licence,
    )
    for name, title, part, paper, licence in (
        (
            "sdxl-dpo",
            "SDXL aligned by Diffusion-DPO (full UNet)",
            Part(
                "unet",
                "mhdang/dpo-sdxl-text2image-v1",
                "unet/diffusion_pytorch_model.safetensors",
                2 * UNET_BYTES,  # published in float32
            ),
            "arXiv:2311.12908",
            RAIL,
        ),
        (
            "sdxl-ncp-dpo",
            "SDXL aligned by DPO in noise-conditioned perception (LoRA)",
            Part("lora", "alexgambashidze/SDXL_NCP-DPO_v0.1", "", NCP_BYTES),
            "arXiv:2406.17636",
            "see the repository",
        ),
    )
)

_NOVELAI = (
    System(
        name="novelai-v3",
        title="NovelAI V3's schedule (sigma 20000) and v-prediction, on a ZTSNR checkpoint you name",
        base=None,
        scheduler="NativeEulerScheduler",
        scheduler_config={
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
        },
        prediction="v_prediction",
        steps=28,
        bytes=SDXL_BYTES,
        paper="arXiv:2409.15997",
        licence="no public weights; that of your checkpoint",
    ),
)

_SHAPES = tuple(
    System(
        name=name,
        title=title,
        base=f"bundled:{name}",
        scheduler=scheduler,
        scheduler_config={**TRAILING, "prediction_type": "v_prediction"},
        prediction="v_prediction",
        steps=steps,
        guidance=guidance,
        distilled=distilled,
        size=64,
        licence="Apache-2.0",
        verified="real weights, bundled",
    )
    for name, title, scheduler, steps, guidance, distilled in (
        ("shapes-turbo", "Shapes, few steps (bundled)", "EulerAncestralDiscreteScheduler", 4, 0.0, True),
        (
            "shapes-base",
            "Shapes, many steps with guidance (bundled)",
            "EulerDiscreteScheduler",
            20,
            2.0,
            False,
        ),
    )
)

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (*_SHAPES, *_BASE, *_TURBO, *_LIGHTNING, *_ONE_STEP, *_ALIGNED, *_NOVELAI)
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
    near = get_close_matches(name, SYSTEMS, n=3, cutoff=0.5)
    raise UnboxError(
        f"there is no system '{name}'; "
        + (f"near: {', '.join(near)}; " if near else "")
        + f"the systems are {', '.join(SYSTEMS)}"
    )
