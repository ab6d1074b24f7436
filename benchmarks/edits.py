"""What edits cost at SDXL's real size: time of the hooks in a UNet step, and their share of that step.

    python benchmarks/edits.py                  # the hooks alone, 512 px: seconds
    python benchmarks/edits.py --unet           # and a step of the real UNet with random weights (6 GB)
    python benchmarks/edits.py --model FOLDER   # inside steps of a real pipeline, by name or folder

The share is the hooks' time over the step's: the difference of two runs of seconds would drown a cost of
microseconds in their noise. Alone, hooks run one after the other on warm caches, the median of many; with
--model they are timed where they fire, between the blocks of each step, the first step of a run included.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from unbox.edit import Edits, Feature
from unbox.edits.apply import EditHook
from unbox.edits.edited_block import EditedBlock, ImageEdits
from unbox.edits.layout import Maps
from unbox.edits.placement import DictionaryCopies
from unbox.edits.program import Program
from unbox.sae.model import SAE, Stats
from unbox.site import DEFAULT_BLOCKS

WIDTH, LATENTS, K = 1280, 5120, 10


def random_sae(block: str) -> SAE:
    """An SAE of the paper's size with random weights."""
    weights = torch.nn.functional.normalize(torch.randn(LATENTS, WIDTH), dim=1)
    one = torch.ones(LATENTS)
    zeros = torch.zeros
    stats = Stats(one, one, one, one / LATENTS * K)
    return SAE(
        weights, weights.clone(), zeros(WIDTH), zeros(LATENTS), K, block, block, stats=stats, update_std=30.0
    )


def scenarios(mask: np.ndarray) -> dict[str, Edits]:
    """Edits by what they are called in the table."""
    saes = {block: random_sae(block) for block in DEFAULT_BLOCKS}
    hundred = [
        Feature(DEFAULT_BLOCKS[i % 4], i, sae=saes[DEFAULT_BLOCKS[i % 4]]).add(1 + i, where=mask)
        for i in range(100)
    ]
    one = saes["up.0.1"].feature(7)
    return {
        "one add": Edits.of(one.add(3)),
        "one add with a mask": Edits.of(one.add(3, where=mask)),
        "100 adds with masks on four blocks": Edits(tuple(hundred)),
        "one scale (a full encode)": Edits.of(one.scale(3)),
    }


def median(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median seconds of a call, after two to warm up."""
    times = []
    for i in range(repeats + 2):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - start)
        if i < 2:
            times.clear()
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def hooks_of(
    edits: Edits, batch: int, side: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], None]:
    """A call that does what the hooks do in one UNet step, on outputs of the real shape."""
    run = SimpleNamespace(step=0, branches=("cond",) * batch, samples=np.arange(batch))
    maps, place = Maps(), DictionaryCopies().on
    programs = [Program(tuple(e for e in edits if e.block == b), WIDTH, maps, place) for b in edits.blocks]
    sites = [EditedBlock([ImageEdits(program)]) for program in programs]
    output = torch.randn(batch, WIDTH, side, side, device=device, dtype=dtype)

    def step() -> None:
        for site in sites:
            site.edited(output, output, run)

    return step


def unet_step(batch: int, side: int, dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """A step of SDXL's UNet with random weights; `side` of its latents."""
    from unbox.models.real_size import sdxl_unet

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    unet = sdxl_unet().to(device).eval()
    torch.set_default_dtype(before)
    call = unet_inputs(batch, side, dtype, device)

    def step() -> None:
        with torch.no_grad():
            unet(timestep=999, **call)

    return step


def unet_inputs(batch: int, side: int, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Arguments of SDXL's UNet but for the timestep; `side` of the latents."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    ids = torch.full((batch, 6), 8.0 * side, device=device, dtype=dtype)
    added = {"text_embeds": normal(batch, 1280), "time_ids": ids}
    return {
        "sample": normal(batch, 4, side, side),
        "encoder_hidden_states": normal(batch, 77, 2048),
        "added_cond_kwargs": added,
    }


def in_place(model: Any, edits: Edits, batch: int, side: int, repeats: int) -> tuple[float, float]:
    """Median seconds of the hooks in a step, and of the step, with the edits attached to a real UNet."""
    from unbox.models.clock import Clock, clock

    spent, steps, hooks, edited = [0.0], [], [], EditedBlock.edited
    device = model.device  # asked once: diffusers looks through every module for it, which takes milliseconds

    def timed(site: EditedBlock, hidden: torch.Tensor, output: torch.Tensor, now: Clock) -> torch.Tensor:
        _wait(device)
        start = time.perf_counter()
        result = edited(site, hidden, output, now)
        _wait(device)
        spent[0] += time.perf_counter() - start
        return result

    model.pipeline.scheduler.set_timesteps(1)
    call = unet_inputs(batch, side, model.dtype, device)
    EditedBlock.edited = timed  # type: ignore[method-assign, assignment]
    try:
        with clock(model), EditHook(edits).attach(model), torch.no_grad():
            for _ in range(repeats):
                spent[0], start = 0.0, time.perf_counter()
                model.unet(timestep=model.pipeline.scheduler.timesteps[0], **call)
                _wait(device)
                steps.append(time.perf_counter() - start)
                hooks.append(spent[0])
    finally:
        EditedBlock.edited = edited  # type: ignore[method-assign]
    return statistics.median(hooks), statistics.median(steps)


def inside(name: str, mask: np.ndarray, options: argparse.Namespace) -> None:
    """The table of --model."""
    from unbox.models import load

    model = load(name, dtype=torch.bfloat16, device=options.device)
    print(
        f"{name}, {options.pixels} px, batch {options.batch}, bf16, {model.device}, "
        f"median of {options.repeats} steps"
    )
    print(f"{'edits':38}{'ms a step':>12}{'step, ms':>12}{'share':>10}")
    for told, edits in scenarios(mask).items():
        hooks, step = in_place(model, edits, options.batch, options.pixels // 8, options.repeats)
        print(f"{told:38}{1e3 * hooks:12.3f}{1e3 * step:12.1f}{100 * hooks / step:9.3f}%", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--unet", action="store_true", help="time a step of the real UNet as well")
    parser.add_argument("--model", help="time the hooks inside steps of this model: a name or a folder")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), torch.bfloat16
    mask = np.random.default_rng(0).random((options.pixels, options.pixels)) < 0.3
    if options.model:
        inside(options.model, mask, options)
        return
    step = None
    if options.unet:
        step = median(unet_step(options.batch, options.pixels // 8, dtype, device), 3, device)
        print(f"UNet step, {options.pixels} px, batch {options.batch}, bf16, {device}: {1e3 * step:.1f} ms")
    print(f"{'edits':38}{'ms a step':>12}" + (f"{'share':>10}" if step else ""))
    for name, edits in scenarios(mask).items():
        cost = median(
            hooks_of(edits, options.batch, options.pixels // 32, dtype, device), options.repeats, device
        )
        print(f"{name:38}{1e3 * cost:12.3f}" + (f"{100 * cost / step:9.2f}%" if step else ""))


if __name__ == "__main__":
    main()
