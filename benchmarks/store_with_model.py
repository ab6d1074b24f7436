"""The sections of `store.py` that need a model: what int8 costs an SAE, what recording adds, dry runs."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from activation_store import subset

BLOCKS, BATCH = ("down.2.1", "mid.0", "up.0.0", "up.0.1"), 8


def spread(values: list[float], digits: int = 2) -> str:
    """Median and range."""
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def quantisation(folder: Path, model_name: str, images: int) -> list[tuple[str, str]]:
    """FVU on held-out float16 rows of SAEs trained on the float16 and on the int8 form of one store.

    512 latents, 8 active; each sees every row three times, in the same order.
    """
    import unbox
    from unbox.capture import read_prompts

    model = unbox.load(model_name)
    settings = {"limit": images, "thumbnail": None}
    train = unbox.collect(model, read_prompts("shapes"), folder / "train", **settings)
    held = unbox.collect(model, read_prompts("shapes", split="heldout"), folder / "held", **settings)
    coarse = subset(train.path, folder / "train8", dtype="int8")
    rows = []
    for block in train.blocks:
        tokens = 3 * len(train[block])
        fitted = [
            unbox.fit(store[block], k=8, latents=512, tokens=tokens, seed=0, batch_size=1024, progress=False)
            for store in (train, coarse)
        ]
        fvu = [unbox.evaluate(sae, held[block]).fvu for sae in fitted]
        rows.append(
            (f"FVU of {block}: float16, int8", f"{fvu[0]:.4f}, {fvu[1]:.4f} ({fvu[1] - fvu[0]:+.4f})")
        )
    return rows


def recording(folder: Path, model_name: str, images: int, size: int, rounds: int) -> list[tuple[str, str]]:
    """What collecting the four blocks adds to generating the same images in batches of a size, pictures
    decoded in both, and how long generation waits for writing.

    Runs alternate. Hashing the weights is done once a run, however long it is, and counted apart.
    """
    import torch

    import unbox
    from unbox.capture.collect import collect_run
    from unbox.capture.collect_settings import CollectOptions, CollectSettings, run_facts

    model = unbox.load(model_name, system="sdxl-turbo")
    prompts = [f"a picture of {n} dogs" for n in range(images)]
    call = {"steps": 1, "height": 512, "width": 512, "batch_size": min(images, size)}
    model.generate(prompts[:1], seed=0, **{**call, "batch_size": 1})

    def hashing() -> object:
        return run_facts(model, CollectSettings(**call))

    def generating() -> object:
        return model.generate(prompts, seed=0, **call)

    def collecting() -> object:
        place = folder / f"recorded{len(added)}"
        done.append(collect_run(model, prompts, place, CollectOptions(progress=False, **call)))
        return done

    base, added, cores, done = [], [], [], []
    for _ in range(rounds):
        (start, start_cores), (plain, plain_cores), (whole, whole_cores) = map(
            timed, (hashing, generating, collecting)
        )
        base.append(plain / images)
        added.append((whole - start - plain) / plain * 100)
        cores.append((whole_cores - start_cores - plain_cores) / plain_cores * 100)
    where = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return [
        (f"generate at 512 px on {where}: seconds an image", spread(base)),
        ("collect: more time than generating, %", spread(added, 1)),
        ("collect: more core seconds than generating, %", spread(cores, 1)),
        (
            "collect: of the time generation waited for writing, %",
            spread([100 * each.waited / each.seconds for each in done], 1),
        ),
        ("collect: seconds to hash the weights, once", f"{start:.1f}"),
        ("collect: peak memory, GB", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f}"),
    ]


def planned(folder: Path, model_name: str, rounds: int) -> list[tuple[str, str]]:
    """What a dry run says of 64 images at four steps, and what collecting them takes: ratios, 1 is right."""
    import unbox
    from unbox.capture import estimate, read_prompts

    model = unbox.load(model_name, system="shapes-turbo")
    settings = {"limit": 64, "steps": 4, "batch_size": 8, "blocks": BLOCKS}
    seconds, sizes = [], []
    for number in range(rounds):
        plan = estimate(model, read_prompts("shapes"), beside=folder, **settings)
        place = folder / f"planned{number}"
        begin = time.perf_counter()
        unbox.collect(model, read_prompts("shapes"), place, progress=False, **settings)
        seconds.append(plan.seconds() / (time.perf_counter() - begin))
        files = [path for path in place.rglob("*") if path.is_file()]
        sizes.append(plan.bytes_in_all / sum(path.stat().st_size for path in files))
    return [
        ("dry run: seconds planned against taken, 64 images", spread(seconds)),
        ("dry run: bytes planned against written", spread(sizes, 3)),
    ]


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds and core seconds of a call."""
    begin, cores = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - begin, time.process_time() - cores
