"""`unbox bench riebench`: RIEBench's protocol for representation-based image editing.

296 pairs of prompts of nine kinds; SDXL Turbo, four steps, guidance 0, seed 42. An edit is made by transport
from the run of the edited prompt, and judged by its distance to the original image and to the image of the
edited prompt. No example is dropped: one that cannot be run is a row with its error. Random features with the
same maps stand beside the SAE's.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from activation_store.files import JSON, digest, read_json, write_json, write_text
from unbox.capture import record
from unbox.edits import Edits, neurons, random_control
from unbox.edits.transport import UpdatePair, steer, transport
from unbox.errors import UnboxError
from unbox.experiments.metrics import ImagePair, Metric, make_metric
from unbox.experiments.report import write_table
from unbox.models.png_record import save_png
from unbox.result_cache import ResultCache
from unbox.statistics import bootstrap

#: `editing_type_id` -> kind.
KINDS = dict(
    enumerate(
        ("change object", "add object", "delete object", "change content", "change pose", "change colour",
         "change material", "change background", "change style"),
        start=1,
    )
)  # fmt: skip

FIELDS = ("id", "editing_type_id", "original_prompt", "editing_prompt")


@dataclass(frozen=True)
class EditExample:
    """One pair of prompts, brackets taken out; `changed`: the bracketed words of either."""

    id: str
    kind: str
    original: str
    edited: str
    original_words: tuple[str, ...]
    edited_words: tuple[str, ...]


@dataclass(frozen=True)
class RiebenchSettings:
    """The protocol. Everything here is part of the results' names."""

    steps: int = 4
    guidance: float = 0.0
    seed: int = 42
    counts: tuple[int, ...] = (80, 160, 320, 640)
    """Numbers of features carried by SAEs (and random controls)."""
    strengths: tuple[float, ...] = (1.0, 2.0)
    """m1 of features and neurons."""
    neurons: tuple[int, ...] = (640, 2560)
    """Numbers of channels carried."""
    steering: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    metrics: tuple[str, ...] = ("structure",)
    """`lpips` and `clip` where their weights are present."""
    clip: str | None = None
    masks: str | None = None
    """Folder of masks `ID_original.png` and `ID_editing.png`; None: from cross-attention."""

    @property
    def sampling(self) -> dict[str, Any]:
        return {"steps": self.steps, "guidance": self.guidance}


def read_examples(path: str | Path, limit: int | None = None) -> list[EditExample]:
    """Examples of a file in RIEBench's format. Raises UnboxError, naming the entry, for one that is not."""
    data = read_json(path)
    if not isinstance(data, list):
        raise UnboxError(f"{path} is not a list of examples")
    return [_example(row, place, path) for place, row in enumerate(data[:limit])]


def _example(row: Any, place: int, path: str | Path) -> EditExample:
    missing = [name for name in FIELDS if not isinstance(row, Mapping) or name not in row]
    if missing:
        raise UnboxError(f"{path}: example {place} has no {missing[0]}; each needs {', '.join(FIELDS)}")
    kind = KINDS.get(int(row["editing_type_id"]))
    if kind is None:
        raise UnboxError(
            f"{path}: example {place} is of type {row['editing_type_id']}; types are 1 to {len(KINDS)}"
        )
    original, edited = str(row["original_prompt"]), str(row["editing_prompt"])
    return EditExample(
        str(row["id"]), kind, _plain(original), _plain(edited), _bracketed(original), _bracketed(edited)
    )


def _plain(prompt: str) -> str:
    return prompt.replace("[", "").replace("]", "")


def _bracketed(prompt: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\[([^\]]*)\]", prompt))


def bench_riebench(
    model: Any,
    saes: Mapping[str, Any],
    examples: Sequence[EditExample],
    out: str | Path,
    settings: RiebenchSettings | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Run what is missing and write rows, a summary and images into `out`; returns the rows.

    A row is an example under a method, with each metric to the original and to the edited prompt's image, or
    an `error`.
    """
    settings, out = settings or RiebenchSettings(), Path(out)
    if not saes:
        raise UnboxError("there are no SAEs to test; train some with `unbox train`")
    saes = {sae.block: sae for sae in saes.values()}
    metrics = {name: make_metric(name, settings.clip) for name in settings.metrics}
    context = {
        "model": model.fingerprint,
        "saes": {block: sae.digest for block, sae in saes.items()},
        "settings": asdict(settings),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "manifest.json", {**context, "examples": len(examples)})
    kept = ResultCache(out / "kept", context)
    rows: list[dict[str, Any]] = []
    for example in tqdm(examples, desc="riebench", disable=not progress):
        key: JSON = [asdict(example), _mask_digests(example, settings)]
        rows += kept.get(key, _one, model, saes, example, out, settings, metrics)
    write_table(out / "rows.csv", rows)
    write_table(out / "summary.csv", summary(rows))
    write_text(out / "summary.md", markdown(rows))
    return rows


def _mask_digests(example: EditExample, settings: RiebenchSettings) -> list[str]:
    if settings.masks is None:
        return []
    paths = [Path(settings.masks) / f"{example.id}_{side}.png" for side in ("original", "editing")]
    return [digest(path) if path.is_file() else "" for path in paths]


def _one(
    model: Any,
    saes: Mapping[str, Any],
    example: EditExample,
    out: Path,
    settings: RiebenchSettings,
    metrics: dict[str, Metric],
) -> list[dict[str, Any]]:
    """Every method on one example, or one row with the error."""
    about = {"id": example.id, "kind": example.kind}
    try:
        pair, original, donor = _recorded(model, tuple(saes), example, settings)
        folder = out / "images" / re.sub(r"[^\w.-]", "_", example.id)
        told = {"original_prompt": example.original, "editing_prompt": example.edited, "seed": settings.seed}
        for name, image in (("original", original), ("edited_prompt", donor)):
            save_png(image, folder / f"{name}.png", told)
        rows = []
        for method, make in ways(saes, settings).items():
            edits = make(pair)
            image = model.generate(example.original, seed=settings.seed, edits=edits, **settings.sampling)[0]
            save_png(image, folder / f"{re.sub(r'[^a-z0-9.]+', '_', method)}.png", {**told, "method": method})
            figures = _figures(metrics, original, donor, image, example)
            rows.append({**about, "method": method, **figures})
        return rows
    except UnboxError as error:
        return [{**about, "method": "", "error": str(error)}]


def _figures(
    metrics: dict[str, Metric], original: Any, donor: Any, image: Any, example: EditExample
) -> dict[str, float]:
    """Each metric's figures to the original image and to the edited prompt's."""
    pairs = [ImagePair(original, image, example.edited), ImagePair(donor, image, example.edited)]
    found: dict[str, float] = {}
    for metric in metrics.values():
        to_original, to_edited = metric(pairs)
        found |= {f"{name}_to_original": value for name, value in to_original.items()}
        found |= {f"{name}_to_edited": value for name, value in to_edited.items()}
    return found


def ways(saes: Mapping[str, Any], settings: RiebenchSettings) -> dict[str, Callable[[UpdatePair], Edits]]:
    """Methods by name."""
    made: dict[str, Callable[[UpdatePair], Edits]] = {}
    for m in settings.strengths:
        for count in settings.counts:
            carry = partial(transport, saes=saes, count=count, strength=m)
            made[f"sae {count} x {m:g}"] = carry
            made[f"random {count} x {m:g}"] = partial(_random, carry, settings.seed)
        for count in settings.neurons:
            made[f"neurons {count} x {m:g}"] = partial(_neurons, tuple(saes), count, m)
    for m in settings.steering:
        made[f"steering x {m:g}"] = partial(steer, blocks=tuple(saes), strength=m)
    return made


def _random(carry: Callable[[UpdatePair], Edits], seed: int, pair: UpdatePair) -> Edits:
    return random_control(carry(pair), seed)


def _neurons(blocks: tuple[str, ...], count: int, strength: float, pair: UpdatePair) -> Edits:
    """Transport of channels, about their mean over both runs."""
    held = {}
    for block in blocks:
        both = np.concatenate([pair.donor[block], pair.original[block]])
        held[block] = neurons(block, both.reshape(-1, both.shape[-1]))
    return transport(pair, held, count, strength)


def _recorded(
    model: Any, blocks: tuple[str, ...], example: EditExample, settings: RiebenchSettings
) -> tuple[UpdatePair, Image.Image, Image.Image]:
    """Both runs' updates and masks, the original image and the edited prompt's."""
    wanted = ("update",) if settings.masks else ("update", "cross")
    with record(model, blocks, wanted) as tape:
        original, donor = (
            model.generate(text, seed=settings.seed, **settings.sampling)[0]
            for text in (example.original, example.edited)
        )
    updates = {block: tape.read(block, "update", "cond").float().numpy() for block in blocks}
    if settings.masks:
        masks: list[Any] = [_file_mask(settings.masks, example, side) for side in ("original", "editing")]
    else:
        words = (example.original_words, example.edited_words)
        texts = (example.original, example.edited)
        maps = [tape.read(block, "cross", "cond") for block in blocks]
        masks = [_attended(model, [m[i] for m in maps], texts[i], words[i]) for i in (0, 1)]
    original_mask, donor_mask = placed(example.kind, *masks)
    donors = {block: u[1] for block, u in updates.items()}
    originals = {block: u[0] for block, u in updates.items()}
    return UpdatePair(donors, originals, donor_mask, original_mask), original, donor


def placed(kind: str, original: Any, edited: Any) -> tuple[Any, Any]:
    """Masks of the original and of the donor side: adding uses the edited image's for both, deleting the
    original's, style everything."""
    if kind == "change style":
        return None, None
    if kind == "add object":
        return edited, edited
    return (original, original) if kind == "delete object" else (original, edited)


def _file_mask(folder: str, example: EditExample, side: str) -> np.ndarray:
    path = Path(folder) / f"{example.id}_{side}.png"
    if not path.is_file():
        raise UnboxError(f"there is no mask {path}")
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), np.float32) / 255


def _attended(model: Any, maps: Sequence[Any], text: str, words: tuple[str, ...]) -> np.ndarray | None:
    """Where the bracketed words are attended to: cross-attention averaged over blocks, steps, layers and
    heads, cut at the midpoint of its range; None (everywhere) where nothing is bracketed."""
    keys = [key for word in words for key in token_places(model.pipeline.tokenizer, text, word)]
    if not keys:
        return None
    side = max(m.shape[-3] for m in maps), max(m.shape[-2] for m in maps)
    total = np.zeros(side, np.float32)
    for of in maps:  # (step, layer, head, y, x, key)
        mean = of[..., keys].float().mean((0, 1, 2, 5)).numpy()
        total += np.kron(mean, np.ones((side[0] // mean.shape[0], side[1] // mean.shape[1]), np.float32))
    return (total >= (total.min() + total.max()) / 2).astype(np.float32)


def token_places(tokenizer: Any, text: str, word: str) -> list[int]:
    """Places of a word's tokens in a prompt's token sequence; none where they are cut off."""
    start = text.find(word)
    if start < 0 or not word.strip():
        return []

    def length(part: str) -> int:
        return len(tokenizer(part, truncation=True).input_ids) - 1  # without the end token

    places = range(length(text[:start].rstrip()), length(text[: start + len(word)]))
    return [place for place in places if place < tokenizer.model_max_length - 1]


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and 95 % interval of each figure by method, over all kinds and for each."""
    good = [row for row in rows if "error" not in row]
    names = [name for name in (good[0] if good else {}) if name not in ("id", "kind", "method")]
    found = []
    for kind in ("all", *dict.fromkeys(row["kind"] for row in good)):
        for method in dict.fromkeys(row["method"] for row in good):
            mine = [r for r in good if r["method"] == method and kind in ("all", r["kind"])]
            if not mine:
                continue
            entry: dict[str, Any] = {"kind": kind, "method": method, "examples": len(mine)}
            for name in names:
                entry[name], entry[f"{name}_low"], entry[f"{name}_high"] = bootstrap(
                    np.array([r[name] for r in mine])
                )
            found.append(entry)
    return found


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table over all kinds, and what failed."""
    entries = [e for e in summary(rows) if e["kind"] == "all"]
    failed = [row for row in rows if "error" in row]
    names = [n for n in (entries[0] if entries else {}) if f"{n}_low" in entries[0]]
    lines = [f"| method | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for e in entries:
        cells = [f"{e[n]:.3f} [{e[f'{n}_low']:.3f}, {e[f'{n}_high']:.3f}]" for n in names]
        lines.append(f"| {e['method']} | {' | '.join(cells)} |")
    told = [f"- {row['id']}: {row['error']}" for row in failed]
    return "\n".join(
        [*lines, "", f"Failed: {len(failed)} of {len({r['id'] for r in rows})} examples.", *told, ""]
    )
