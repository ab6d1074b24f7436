"""`python -m unbox.recipes.grown_shapes OUT --stages vae text`: makes the Shapes models, stage by stage."""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from unbox.recipes.grown_shapes import model_report
from unbox.recipes.grown_shapes.growth import ORDERS, said_by
from unbox.recipes.grown_shapes.text_stage import read_right, token_ids
from unbox.recipes.grown_shapes.train_critics import CRITICS
from unbox.recipes.grown_shapes.vae_stage import fidelity
from unbox.recipes.grown_shapes.whole_recipe import GrownShapes, Minutes, RecipeSizes, unpack
from unbox.recipes.grown_shapes.world import pictures
from unbox.shapes import prompts
from unbox.shapes.scene_table import SceneTable, sample_table


def run_stage(recipe: GrownShapes, stage: str) -> None:
    """Run one stage and print what it can do."""
    if stage == "captions":
        print(f"{len(recipe.captions['ids'])} captions, {len(recipe.tokenizer)} tokens", flush=True)
        for said in {said_by(order, i) for order in ORDERS for i in range(len(ORDERS[order]))} - {()}:
            recipe.some_captions(said)
    elif stage == "vae":
        print(f"vae: {fidelity(recipe.vae, recipe.device):.2f} dB on held-out pictures", flush=True)
    elif stage == "text":
        both, exams = recipe.both, ("full", "own wordings", "people")
        for name in exams:
            texts, table, mentioned = text_exam(recipe, name)
            if table is not None:
                right = read_right(both, token_ids(recipe.tokenizer, texts, recipe.device), table, mentioned)
                print(f"text, {name}: " + " ".join(f"{k} {v:.3f}" for k, v in right.items()), flush=True)
    elif stage in CRITICS:
        network = recipe.critic(stage)
        table = sample_table(4 * recipe.sizes.exam, 901, "heldout")
        parts = [network(p * 2 - 1) for p, _ in pictures(table, recipe.device)]
        read = torch.stack([torch.cat([t[n] for t in parts]).argmax(-1) for n in model_report.NAMES], 1)
        right = model_report.accuracy(read, torch.from_numpy(model_report.targets(table)).to(recipe.device))
        print(f"{stage}: " + " ".join(f"{k} {v:.4f}" for k, v in right.items()), flush=True)
    elif stage == "base":
        recipe.report(recipe.base, f"base-{recipe.order}", (1, recipe.sizes.pair_steps))
    elif stage == "finish":
        recipe.report(recipe.finish, f"finish-{recipe.order}", (1, 4))
    else:
        raise SystemExit(f"no stage '{stage}'")


def text_exam(recipe: GrownShapes, name: str) -> tuple[list[str], SceneTable | None, np.ndarray]:
    """Captions with scenes, for the reader; people's own have none."""
    n = recipe.sizes.exam
    if name == "full":
        table, captions = model_report.of_prompts(prompts(n, 100, "heldout", True))
        return captions.texts, table, captions.mentioned
    if name == "own wordings":
        job = model_report.CaptionJob(100, n, 0, n, split="heldout", full=0.5, plain=0.0).write()
        return job.texts, sample_table(n, 100, "heldout"), job.mentioned
    return [], None, np.zeros((0, 13), bool)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--stages", nargs="+", default=["captions", "vae", "text", "detector", "critic", "base", "finish"]
    )
    parser.add_argument("--order", default="words-frozen", choices=sorted(ORDERS))
    parser.add_argument("--device", default=None)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--unpack", type=Path)
    parser.add_argument("--pack", type=Path)
    for name in Minutes.__dataclass_fields__:
        parser.add_argument(f"--{name}-minutes", type=float, default=getattr(Minutes, name))
    for name in RecipeSizes.__dataclass_fields__:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    given = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    if given.unpack is not None:
        unpack(given.unpack, given.out)
    accelerator = Accelerator(mixed_precision="bf16", cpu=given.device == "cpu")
    minutes = Minutes(**{k: getattr(given, f"{k}_minutes") for k in Minutes.__dataclass_fields__})
    sizes = RecipeSizes.small() if given.small else RecipeSizes()
    chosen = {k: v for k in RecipeSizes.__dataclass_fields__ if (v := getattr(given, k)) is not None}
    sizes = RecipeSizes(**{**sizes.__dict__, **chosen})
    recipe = GrownShapes(
        given.out, accelerator, given.order, sizes, minutes, given.steps, given.guidance, given.pack
    )
    given.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for stage in given.stages:
        run_stage(recipe, stage)
        if given.pack is not None:
            recipe.pack(given.pack)
        memory = torch.cuda.max_memory_allocated() / 1e9 if recipe.device.type == "cuda" else 0
        print(f"[{time.monotonic() - began:.0f} s] {stage} done; peak {memory:.1f} GB", flush=True)


if __name__ == "__main__":
    main()
