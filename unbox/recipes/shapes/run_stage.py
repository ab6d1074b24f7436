"""One stage of the recipe: run it, and print what it can do."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unbox.recipes.shapes import model_report
from unbox.recipes.shapes.orders import ORDERS, said_by
from unbox.recipes.shapes.recipe_settings import Stage
from unbox.recipes.shapes.shapes_card import orders_of_run, write_card
from unbox.recipes.shapes.text_stage import read_right, token_ids
from unbox.recipes.shapes.train_critics import CRITICS
from unbox.recipes.shapes.vae_stage import fidelity
from unbox.recipes.shapes.whole_recipe import ShapesRecipe
from unbox.recipes.shapes.world import pictures
from unbox.shapes import prompts
from unbox.shapes.scene_table import SceneTable, sample_table


def make_models(recipe: ShapesRecipe, stages: Iterable[Stage]) -> Iterator[Path]:
    """Run stages, print what they can do, and give the folder of each model that is then made."""
    recipe.out.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        report = run_stage(recipe, stage)
        if recipe.results is not None:
            recipe.pack(recipe.results)
        if stage in CRITICS:
            yield recipe.export_critic(stage)
        if stage == "base":
            yield recipe.export(recipe.base, "shapes-base")
        if stage == "finish":
            folder = recipe.export(recipe.finish, "shapes-turbo")
            write_card(folder, orders_of_run(recipe.out, recipe.order), report)
            yield folder


def run_stage(recipe: ShapesRecipe, stage: Stage) -> dict[str, dict[str, Any]]:
    """Run one stage and print what it can do; gives what was measured of a UNet."""
    if stage == "captions":
        print(f"{len(recipe.captions['ids'])} captions, {len(recipe.tokenizer)} tokens", flush=True)
        for said in {said_by(recipe.order, i) for i in range(len(ORDERS[recipe.order].stages))} - {()}:
            recipe.some_captions(said)
    elif stage == "vae":
        print(f"vae: {fidelity(recipe.vae, recipe.device):.2f} dB on held-out pictures", flush=True)
    elif stage == "text":
        for name in ("full", "own wordings"):
            texts, table, mentioned = _text_exam(recipe, name)
            ids = token_ids(recipe.tokenizer, texts, recipe.device)
            right = read_right(recipe.both, ids, table, mentioned)
            print(f"text, {name}: " + " ".join(f"{k} {v:.3f}" for k, v in right.items()), flush=True)
    elif stage in CRITICS:
        network = recipe.critic(stage)
        table = sample_table(4 * recipe.sizes.exam, 901, "heldout")
        parts = [network(p * 2 - 1) for p, _ in pictures(table, recipe.device)]
        read = torch.stack([torch.cat([t[n] for t in parts]).argmax(-1) for n in model_report.NAMES], 1)
        right = model_report.accuracy(read, torch.from_numpy(model_report.targets(table)).to(recipe.device))
        print(f"{stage}: " + " ".join(f"{k} {v:.4f}" for k, v in right.items()), flush=True)
    elif stage == "base":
        return recipe.report(recipe.base, f"base-{recipe.order}", (1, 4))
    else:
        return recipe.report(recipe.finish, f"finish-{recipe.order}", (1, 4))
    return {}


def _text_exam(recipe: ShapesRecipe, name: str) -> tuple[list[str], SceneTable, np.ndarray]:
    """Held-out captions, their scenes and what they mention."""
    n = recipe.sizes.exam
    if name == "full":
        table, captions = model_report.of_prompts(prompts(n, 100, "heldout", True))
        return captions.texts, table, captions.mentioned
    job = model_report.CaptionJob(100, n, 0, n, split="heldout", full=0.5, plain=0.0).write()
    return job.texts, sample_table(n, 100, "heldout"), job.mentioned
