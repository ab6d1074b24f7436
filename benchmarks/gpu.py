"""What the toolkit costs on a GPU, section by section, as one page of Markdown.

    python benchmarks/gpu.py                            every section, on cuda:0, into benchmarks/gpu-page.md
    python benchmarks/gpu.py --sections sae-step edits  some of them
    python benchmarks/gpu.py --device cpu --tiny        the same code at toy size (a slow test does)

Runs from a checkout without installing it, on Python 3.11 or newer with torch (CUDA), diffusers and
transformers; sections whose packages are absent say so and are passed over. Each is written as it ends, so
that a page cut short by a time limit holds what was measured. A section is a function here or in another
file of this folder that yields lines; a new one is a new row of `SECTIONS`.
"""

import argparse
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from gpu_recipes import recipes  # noqa: E402
from gpu_sae import sae_kernels, sae_step, training  # noqa: E402
from gpu_setting import Setting  # noqa: E402

LIBRARIES = ("torch", "triton", "diffusers", "transformers", "numpy", "numba")


def machine(setting: Setting) -> Iterator[str]:
    """The card, its limits as measured, and the libraries."""
    if setting.cuda:
        properties = torch.cuda.get_device_properties(setting.device)
        yield (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"{properties.multi_processor_count} multiprocessors, CUDA {torch.version.cuda}."
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield f"{platform.processor() or platform.machine()}, {cores} cores, Python {platform.python_version()}."
    yield "Libraries: " + ", ".join(f"{name} {_version(name)}" for name in LIBRARIES) + "."
    size, dtype = (512 if setting.tiny else 8192), torch.bfloat16
    a, b = (torch.randn(size, size, device=setting.device, dtype=dtype) for _ in range(2))
    best = statistics.median(setting.seconds(lambda: a @ b))
    yield f"Product of two {size} x {size} matrices in bf16: {2 * size**3 / best / 1e12:.1f} TFLOP/s."
    source = torch.randn((1 << 20) if setting.tiny else (1 << 29), device=setting.device)
    target = torch.empty_like(source)
    best = statistics.median(setting.seconds(lambda: target.copy_(source)))
    rate = 2 * source.nbytes / best / 1e12
    yield f"Copy of {source.nbytes / 2**20:,.0f} MiB: {rate:.2f} TB/s read and written."


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def gpu_tests(setting: Setting) -> Iterator[str]:
    """The tests marked `gpu`."""
    if importlib.util.find_spec("pytest") is None:
        yield "pytest is absent: not run."
        return
    # By name: what other tests import may not be on a machine that is lent for an hour.
    marked = [str(file) for file in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.gpu" in file.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", *marked]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)
    yield "```\n" + "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:]) + "\n```"


def random_model(setting: Setting) -> Any:
    """SDXL's real architecture with random weights in fp16 on the device; the bundled model where tiny."""
    import unbox

    if setting.tiny:
        return unbox.load("shapes-turbo", device=setting.device)
    from unbox.models.real_size import random_model

    return random_model("base", dtype=torch.float16, device=setting.device)


def images(setting: Setting) -> Iterator[str]:
    """Images a second of one-step generation, with and without recording and edits."""
    import unbox

    model = random_model(setting)
    blocks = ["down.2.1", "mid.0", "up.0.0", "up.0.1"]
    yield "| pixels | batch | what | s a batch | images/s | GiB beside the weights |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for pixels, batches in ((64, (2,)),) if setting.tiny else ((512, (1, 16)), (1024, (1, 8))):
        for batch in batches:
            prompts = ["a red circle"] * batch
            call = {"seed": 0, "steps": 1, "width": pixels, "height": pixels, "batch_size": batch}

            def plain(prompts: list[str] = prompts, call: dict[str, Any] = call) -> object:
                return model.generate(prompts, **call)

            def recorded(prompts: list[str] = prompts, call: dict[str, Any] = call) -> object:
                with unbox.record(model, blocks=blocks):
                    return model.generate(prompts, **call)

            for name, run in (("images", plain), ("images, four blocks recorded", recorded)):
                peak = setting.peak(run)
                seconds = setting.seconds(run, repeats=5, warm=1)
                middle, spread = statistics.median(seconds), (max(seconds) - min(seconds)) / 2
                yield (
                    f"| {pixels} | {batch} | {name} | {middle:.3f} ± {spread:.3f} | "
                    f"{batch / middle:.2f} | {peak / 2**30:.2f} |"
                )


def collecting(setting: Setting) -> Iterator[str]:
    """Collecting into a store: images a second beside generation alone, and what a run costs once."""
    import tempfile

    from unbox.capture.collect import CollectOptions, collect_run

    model = random_model(setting)
    count, batch, pixels = (6, 2, 64) if setting.tiny else (160, 16, 512)
    blocks = ["down.2.1", "mid.0", "up.0.0", "up.0.1"]
    prompts = [f"a photo of number {i}" for i in range(count)]
    call = {"seed": 0, "steps": 1, "width": pixels, "height": pixels, "batch_size": batch}
    made = statistics.median(setting.seconds(lambda: model.generate(["x"] * batch, **call), 3, 1)) / batch
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        options = CollectOptions(blocks=blocks, progress=False, **call)
        done = collect_run(model, prompts, f"{place}/acts", options)
        spent = time.perf_counter() - began
        size = sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())
    yield (
        f"{count} images of {pixels} px, four blocks, batches of {batch}, "
        f"{size / count / 2**20:.2f} MiB an image: "
        f"{count / done.seconds:.2f} images/s ({1 / made:.2f} without a store), "
        f"{size / done.seconds / 2**20:,.0f} MiB/s; generation waited for writing "
        f"{100 * done.waited / done.seconds:.1f} % of the time; {spent - done.seconds:.1f} s once a run."
    )


def edits(setting: Setting) -> Iterator[str]:
    """Hooks of edits on outputs of the real shape, and their share of a UNet step."""
    import edits as benchmark
    import numpy as np

    model = random_model(setting)
    pixels = 64 if setting.tiny else 512
    if setting.tiny:
        yield "Only at real size: the edits here are 1280 wide."
        return
    mask = np.random.default_rng(0).random((pixels, pixels)) < 0.3
    yield "| edits | ms a step | UNet step, ms | share |"
    yield "| --- | --- | --- | --- |"
    for name, some in benchmark.scenarios(mask).items():
        hooks, step = benchmark.in_place(model, some, 1, pixels // 8, setting.repeats)
        yield f"| {name} | {hooks * 1e3:.3f} | {step * 1e3:.1f} | {100 * hooks / step:.2f} % |"


def live(setting: Setting) -> Iterator[str]:
    """Frames of the explorer's live mode: one step, strengths that change, the stages before the first edit
    computed once; beside runs of the same pictures."""
    from unbox.edit import Direction, Edits
    from unbox.explorer.image_recipe import Recipe
    from unbox.explorer.live_sampler import LiveSampler

    model = random_model(setting)
    pixels = model.size if setting.tiny else 512
    recipe = Recipe(model.system.name, "a photo", 0, 1, 0.0, pixels, pixels)
    yield "| VAE | edited block | frames/s | runs/s |"
    yield "| --- | --- | --- | --- |"
    for half in (False,) if setting.tiny else (False, True):
        if half:  # as the VAE that is called fp16-fix is computed
            model.pipeline.vae.register_to_config(force_upcast=False)
            model.pipeline.vae.nominal = None
            model.pipeline.vae.to(torch.float16)
        sampler = LiveSampler(model, recipe)
        for block in ("down.2.1", "mid.0", "up.0.1", "up.1.2"):
            width = model.block(block).in_channels
            frames = iter(range(10**9))

            def edits(width: int = width, block: str = block, frames: Iterator[int] = frames) -> Edits:
                direction = Direction(block, (1.0,) * width)
                return Edits((direction.add(0.01 * (next(frames) % 100)),))

            call = {"seed": 0, "steps": 1, "guidance": 0.0, "height": pixels, "width": pixels}
            live = statistics.median(setting.seconds(lambda s=sampler, e=edits: s.draw(e())))
            run = statistics.median(
                setting.seconds(lambda c=call, e=edits: model.generate("a photo", edits=e(), **c))
            )
            yield f"| {'float16' if half else 'float32'} | {block} | {1 / live:.1f} | {1 / run:.1f} |"


def vae_memory(setting: Setting) -> Iterator[str]:
    """Memory of decoding at 1024 px, plain, sliced and tiled."""
    model = random_model(setting)
    vae = model.pipeline.vae
    side = 16 if setting.tiny else 128
    yield "| batch | how | GiB beside the weights | s |"
    yield "| --- | --- | --- | --- |"
    for batch in (1, 8):
        for how in ("plain", "sliced", "sliced and tiled"):
            (vae.enable_slicing if "sliced" in how else vae.disable_slicing)()
            (vae.enable_tiling if "tiled" in how else vae.disable_tiling)()
            latents = torch.randn(batch, 4, side, side, device=setting.device, dtype=vae.dtype)

            def decode(latents: torch.Tensor = latents) -> None:
                with torch.no_grad():
                    vae.decode(latents)

            peak = setting.peak(decode)
            spent = statistics.median(setting.seconds(decode, 3, 1))
            yield f"| {batch} | {how} | {peak / 2**30:.2f} | {spent:.3f} |"
    vae.disable_slicing()
    vae.disable_tiling()


SECTIONS: dict[str, Callable[[Setting], Iterator[str]]] = {
    "machine": machine,
    "gpu-tests": gpu_tests,
    "sae-step": sae_step,
    "sae-kernels": sae_kernels,
    "training": training,
    "images": images,
    "collect": collecting,
    "edits": edits,
    "live": live,
    "vae-memory": vae_memory,
    "recipes": recipes,
}


def write_section(name: str, setting: Setting, page: Path) -> bool:
    """Run a section and add it to the page; what stops it is written there and gives False."""
    section, began, whole = SECTIONS[name], time.perf_counter(), True
    lines = [f"\n## {name}\n", " ".join((section.__doc__ or "").split()) + "\n"]
    try:
        for line in section(setting):
            print(line, flush=True)
            lines.append(line)
    except Exception:  # a page of what could be measured is worth more than none
        lines.append("```\n" + traceback.format_exc(limit=-8) + "```")
        print(lines[-1], flush=True)
        whole = False
    lines.append(f"\n({time.perf_counter() - began:.0f} s)")
    with open(page, "a") as file:
        file.write("\n".join(lines) + "\n")
    return whole


def main() -> int:
    """Run the sections asked for; 1 if one of them was stopped by an error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that every section runs")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "gpu-page.md")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    setting = Setting(torch.device(options.device), options.tiny, 2 if options.tiny else options.repeats)
    if options.inside:
        return 0 if write_section(options.sections[0], setting, options.out) else 1
    options.out.write_text(f"# On a GPU\n\n`python benchmarks/gpu.py{' --tiny' if options.tiny else ''}`\n")
    codes = []
    for name in options.sections:
        print(f"## {name}", flush=True)
        # In a process of its own: what one imports, keeps on the card or breaks is not the next one's.
        command = [sys.executable, __file__, *sys.argv[1:], "--inside", "--sections", name]
        codes.append(subprocess.run(command).returncode)
    return 1 if any(codes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
