"""A difference is planted in a model, and `unbox diff` is asked for it.

    python -m benchmarks.planted_difference --out runs/planted --value red --drawn blue --control

Draws scenes whose captions say one value while another is drawn, trains a LoRA on them (`unbox recipe sdxl`),
compares the model with and without it, and says at which rank of each block's features those stand that tell
the value, beside the ranks that they have in random splits of the model's own images. Every part is kept;
the same line goes on. With `--control` the model has a LoRA too, of the same scenes drawn as they are said,
so that what any training changes is in both. With `--words` nothing is trained: the value's words are read as
the other's, by the rows of the text encoders' embeddings.
"""

import argparse
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from activation_store import Store
from activation_store.files import write_json
from unbox.cli.main import main as command
from unbox.experiments.diff.block_figures import measured_changes
from unbox.experiments.diff.compared_stores import DrawnSystems
from unbox.experiments.diff.diff_settings import ComparedSystem, DiffSettings, read_systems
from unbox.experiments.diff.joint_rows import divided, rows_of
from unbox.experiments.diff.run_diff import DiffRun, run_diff
from unbox.ground_truth.factor_scores import Value
from unbox.ground_truth.planted_ranks import (
    best_told,
    planted_ranks,
    pooled_activity,
    said_changes,
    said_values,
    telling_scores,
)
from unbox.models import Model, load
from unbox.prompt import Prompt
from unbox.sae import load_saes
from unbox.shapes import FACTORS, OBJECT_FACTORS, Scene, caption, prompts, sample_scene, scene_rng
from unbox.shapes.detector import Detector
from unbox.shapes.factors import TABLE
from unbox.shapes.render_torch import draw
from unbox.shapes.scene_table import SceneTable

#: Features of each block whose best-told value is listed.
LISTED = 10


def write_images(folder: Path, count: int, factor: str, value: str, drawn: str, side: int, seed: int) -> None:
    """Scenes with captions that say `value` where `drawn` is drawn, half of them with one that does; files
    that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    written, having, index = 0, 0, 0
    while written < count:
        rng = scene_rng(seed, index, "train")
        scene, index = sample_scene(rng, "train"), index + 1
        said, _ = caption(scene, rng, "train")
        slots = [slot for slot, thing in enumerate(scene.objects) if getattr(thing, factor) == value]
        if bool(slots) is (2 * having > written):
            continue
        having, written = having + bool(slots), written + 1
        for slot in slots:
            scene = scene.with_factor(factor, drawn, slot)
        if not (text := folder / f"{written:06d}.txt").is_file():
            pixels = draw(SceneTable.of([scene]), side).pictures[0].permute(1, 2, 0).numpy()
            Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(folder / f"{written:06d}.png")
            text.write_text(said)


def with_words_read_as(model: Model, factor: str, value: str, drawn: str) -> Model:
    """The model, whose text encoders read each word of a value as the first word of another."""
    pipeline, words = model.pipeline, TABLE[factor].wordings
    for tokenizer, encoder in (
        (pipeline.tokenizer, pipeline.text_encoder),
        (pipeline.tokenizer_2, pipeline.text_encoder_2),
    ):
        table = encoder.get_input_embeddings().weight.data
        (other,) = tokenizer(words[drawn][0], add_special_tokens=False).input_ids
        for word in words[value]:
            (own,) = tokenizer(word, add_special_tokens=False).input_ids
            table[own] = table[other]
    return model


def share(right: Sequence[bool]) -> float | None:
    """Of those that are right; None where there are none."""
    return float(np.mean(right)) if right else None


def read_as(
    store: Store, images: Sequence[int], factor: str, value: str, drawn: str
) -> dict[str, float | None]:
    """Of images whose captions say the value of the only object: the share read as it, and as what was drawn
    in its place; of the others, the share whose factor is read as said. None: no caption says so."""
    wanted, others = [], []
    for i in images:
        sample = store.samples[i]
        scene = Scene.from_json(sample.meta["scene"])
        if len(scene.objects) == 1 and f"0.{factor}" in sample.meta["mentioned"]:
            picture = Image.open(io.BytesIO(store.thumbnail(i))).convert("RGB")
            (wanted if getattr(scene.objects[0], factor) == value else others).append((picture, scene))
    reader = Detector.load()
    readings = reader.read([picture for picture, _ in wanted + others]) if wanted + others else []
    seen = [reading["slots"][0][factor] for reading in readings]
    found, rest = seen[: len(wanted)], seen[len(wanted) :]
    right = [getattr(s.objects[0], factor) == r for (_, s), r in zip(others, rest, strict=True)]
    return {
        "images": len(found),
        "as_said": share([each == value for each in found]),
        "as_planted": share([each == drawn for each in found]),
        "others": len(right),
        "others_as_said": share(right),
    }


def trained_lora(given: argparse.Namespace, name: str, drawn: str) -> Path:
    """A LoRA that learned scenes in which `drawn` stands where captions say the value; trained if need be."""
    pictures = given.out / f"images-{name}"
    side = load(given.model, download=False).size
    write_images(pictures, given.images, given.factor, given.value, drawn, side, given.seed + 11)
    place = given.out / f"lora-{name}"
    lora = ["--data", str(pictures), "--square", "--out", str(place), "--mixed-precision", "no"]
    lora += ["--lr-warmup-steps", "50", "--decay-from", "0.5", "--lora-rank", "16"]
    if command(["recipe", "sdxl", "--model", given.model, *lora, *given.train.split()]):
        raise SystemExit(2)
    return place / "lora"


def changed_by_lora(given: argparse.Namespace) -> DrawnSystems:
    """The model, and the same with a LoRA that learned the value as the other. With `--control` the model has
    a LoRA too, which learned the same scenes drawn as they are said, so that what any training changes is in
    both."""
    before = f"{given.model},name=before"
    if given.control:
        before = f"{given.model},lora={trained_lora(given, 'as-said', given.value)},name=before"
    after = f"{given.model},lora={trained_lora(given, 'planted', given.drawn)},name=after"
    systems = read_systems((before, after))
    return DrawnSystems(systems, lambda one: load(one.model, lora=one.lora, download=False), asked(given))


def changed_by_words(given: argparse.Namespace) -> DrawnSystems:
    """The model, and the same reading the value's words as the other's."""
    systems = read_systems((f"{given.model},name=before", f"{given.model},name=after"))

    def loaded(one: ComparedSystem) -> Model:
        model = load(one.model, download=False)
        if one.title == "before":
            return model
        return with_words_read_as(model, given.factor, given.value, given.drawn)

    return DrawnSystems(systems, loaded, asked(given))


def asked(given: argparse.Namespace) -> list[Prompt]:
    """Held-out captions of the comparison."""
    return prompts(given.prompts, seed=given.seed + 99, split="heldout")


def wrong_values(factor: str, value: str, drawn: str) -> str | None:
    """Why no difference of a factor can be planted so, in one line; None where it can."""
    if factor not in OBJECT_FACTORS:
        return f"--factor {factor}: no factor of objects; there are {', '.join(OBJECT_FACTORS)}"
    for name, one in (("value", value), ("drawn", drawn)):
        if one not in FACTORS[factor]:
            return f"--{name} {one}: no {factor}; there are {', '.join(FACTORS[factor])}"
    return f"--drawn {drawn}: the value itself; name another {factor}" if value == drawn else None


def table(blocks: dict[str, Any], value: str, drawn: str) -> list[str]:
    """Markdown, a row a block: the ranks of two values, how often by chance, median and best in splits."""
    heads = ["block", *(cell for one in (value, drawn) for cell in (one, "by chance", "in splits"))]
    heads.append("family-wise p < .05")
    rows = [heads, ["---"] * len(heads)]
    for block, of in blocks.items():
        cells = [block]
        for ranks in (of["ranks"][value], of["ranks"][drawn]):
            splits = ranks["first_in_splits"]
            cells += [str(ranks["first"]), f"{ranks['by_chance']:.3f}"]
            cells.append(f"{np.median(splits):g}, {min(splits)}")
        rows.append([*cells, str(of["changed_family"])])
    return [f"| {' | '.join(row)} |" for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="shapes-base")
    parser.add_argument("--factor", default="colour")
    parser.add_argument("--value", default="red")
    parser.add_argument("--drawn", default="blue")
    parser.add_argument("--words", action="store_true")
    parser.add_argument(
        "--control", action="store_true", help="before: a LoRA of the same scenes drawn as they are said"
    )
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--train", default="--max-train-steps 250 --batch-size 8 --learning-rate 1e-3")
    parser.add_argument("--prompts", type=int, default=240)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--guidance", type=float, default=0.0)
    parser.add_argument("--latents", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.words and given.control:
        parser.error("--control is of LoRAs, and with --words none is trained")
    if wrong := wrong_values(given.factor, given.value, given.drawn):
        parser.error(wrong)
    planted: Value = (given.factor, given.value)
    source = changed_by_words(given) if given.words else changed_by_lora(given)
    settings = DiffSettings(
        steps=given.steps, guidance=given.guidance, latents=given.latents, k=8, tokens=given.tokens,
        rows=1024, seed=given.seed,
    )  # fmt: skip
    run_diff(DiffRun(source, settings), given.out / "diff")
    found = figures(given.out / "diff", settings, planted, given.drawn)
    write_json(given.out / "planted.json", found)
    print(json.dumps(found["pictures"], indent=1))
    print(*table(found["blocks"], given.value, given.drawn), sep="\n")
    for block, of in found["blocks"].items():
        print(f"{block}, the {LISTED} most changed: {', '.join(of['told'])}")
        kept = [" ".join(each["value"]) + f" {each['kept']['kept']:.2f}" for each in of["kept"]]
        print(f"{block}, kept in images that say it, by the feature that tells it: {', '.join(kept)}")


def figures(place: Path, settings: DiffSettings, planted: Value, drawn: str) -> dict:
    """What the comparison in a folder says of the planted value, and of every other one of its factor."""
    stores = {name: Store.open(place / "stores" / name) for name in ("before", "after")}
    learn, held = divided(range(len(stores["before"])), settings.held_out)
    said, saes = said_values(stores["before"], learn), load_saes(place / "saes" / "joint")
    said_held = said_values(stores["before"], held)
    pictures = {name: read_as(store, held, *planted, drawn) for name, store in stores.items()}
    blocks = {}
    for block, sae in saes.items():
        changes = measured_changes(sae, rows_of(stores, block, held), settings)
        ranked, split_ranks = changes.changes["after"], changes.split.ranks
        activity = pooled_activity(sae, rows_of(stores, block, learn)["before"], learn)
        scores = telling_scores(activity, said)
        ranks = {}
        for value in FACTORS[planted[0]]:
            one = planted_ranks((planted[0], value), scores[planted[0], value], ranked.ranks, split_ranks)
            more = {"first": one.first, "by_chance": one.by_chance, "first_in_splits": one.first_in_splits}
            ranks[value] = {**asdict(one), **more, "t": ranked.t[list(one.features)].tolist()}
        top = ranked.order[:LISTED].tolist()
        told = [
            f"{factor} {value} ({score:.2f}, t {ranked.t[i]:.1f})"
            for i, ((factor, value), score) in zip(top, best_told(scores, top), strict=True)
        ]
        sure = ranked.p_family < 0.05
        of_held = {name: pooled_activity(sae, of, held) for name, of in rows_of(stores, block, held).items()}
        kept = said_changes(of_held["before"], of_held["after"], said_held, scores)
        blocks[block] = {
            "ranks": ranks,
            "told": told,
            "kept": [{**asdict(each), "kept": each.kept.columns("kept")} for each in kept],
            "changed": int((ranked.q < 0.05).sum()),
            "changed_family": int(sure.sum()),
            "in_splits": float((changes.split.q < 0.05).sum(1).mean()),
        }
    return {"planted": [*planted, drawn], "held_out": len(held), "pictures": pictures, "blocks": blocks}


if __name__ == "__main__":
    main()
