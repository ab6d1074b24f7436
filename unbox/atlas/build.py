"""Building an atlas: one pass over the store for each SAE, then what relates them, then the database."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from tqdm.auto import tqdm

from activation_store import Store, publish_file, read_json, write_json
from unbox.atlas import atlas_files, caption_labels, database, feature_statistics, relations, text_embeddings
from unbox.atlas.atlas_plan import AtlasPlan
from unbox.atlas.caption_labels import Captions
from unbox.atlas.encode_pass import former_pass_key, gather, grid_of, pass_key, scale_of
from unbox.atlas.given_labels import GivenLabel, given_labels, labels_in, put_labels
from unbox.errors import UnboxError
from unbox.memory_limit import require
from unbox.models.sampling_options import prompt_options
from unbox.result_cache import key_of
from unbox.run_folder import run_folder
from unbox.sae.direction_set import META, directions_of
from unbox.sae.model import SAE

if TYPE_CHECKING:
    from unbox.models.model import Model


def build(
    store: Store,
    saes: Mapping[str, SAE],
    out: str | os.PathLike,
    *,
    plan: AtlasPlan | None = None,
    model: "Model | None" = None,
    progress: bool = True,
) -> Path:
    """Build the atlas of `saes` (by name, as `load_saes` gives) on an activation store in the folder `out`.

    `model`: its text encoders embed the captions, for search by meaning; None leaves that out. Stopped at any
    moment, the same call goes on; the atlas that was there stays readable until the new one is whole. Labels
    by people and models go with their SAE, whatever else is new; those of SAEs that are not here are kept
    (`Atlas.kept_labels`). Memory: the tallies of one SAE at
    a time, about latents x (52 maps + 1024 probes x 2 bytes), with the default plan some 300 MB for 5120
    latents on 32x32 maps. Raises UnboxError when a block is not in the store.
    """
    plan, out = plan or AtlasPlan(), Path(out)
    check(store, saes, plan)
    keys = pass_keys(store, saes, plan, out)
    encoders = None if model is None else model.fingerprint["weights"]
    text = encoders and {k: v for k, v in encoders.items() if "text" in k}
    inputs: list[Any] = [atlas_files.VERSION, keys, text]
    if names := {name: sae.meta[META] for name, sae in saes.items() if directions_of(sae)}:
        inputs.append(names)
    folder = out / f"data-{key_of(inputs, 16)}"
    if atlas_files.current(out) == folder.name:
        return out
    with run_folder(out, "atlas"):
        _build(store, saes, folder, plan, model, progress)
        if not (folder / atlas_files.DATABASE).exists():
            fill_database(folder, store, saes, given_labels(out))
        before = read_json(out / atlas_files.INDEX) if atlas_files.current(out) else None
        write_json(out / atlas_files.INDEX, _index(store, saes, keys, plan, folder.name, model))
        if before is not None:  # what was labelled in it since
            labelled = labels_in(out / before["data"] / atlas_files.DATABASE, before)
            with database.connect(folder / atlas_files.DATABASE, write=True) as connection:
                put_labels(connection, labelled, saes)
        for old in out.glob("data-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
    return out


def pass_keys(store: Store, saes: Mapping[str, SAE], plan: AtlasPlan, out: Path) -> dict[str, str]:
    """What the pass of each SAE is named by. One that a version before made keeps its name, where it is of
    the same rows, sizes and SAE: its key left out statistics, on which the scale of histograms depends."""
    index = atlas_files.read_index(out) if atlas_files.current(out) else {"saes": []}
    keys = {}
    for number, old in enumerate(index["saes"]):
        sae = saes.get(old["name"])
        if sae is None or old["key"] != former_pass_key(sae, store[sae.block].digest, plan.to_json()):
            continue
        same = sae.identity == index.get("identities", {}).get(old["name"])
        if same or ("identities" not in index and _same_scale(sae, out / index["data"], number, old)):
            keys[old["name"]] = old["key"]
    return {name: keys.get(name) or pass_key(sae, store[sae.block], plan) for name, sae in saes.items()}


def _same_scale(sae: SAE, folder: Path, number: int, old: Mapping[str, Any]) -> bool:
    with h5py.File(atlas_files.sae_file(folder, number), locking=False) as arrays:
        scale = arrays["scale"][()]
    fits = sae.stats is None or np.array_equal(scale, scale_of(sae.stats))
    return fits and old["update_std"] == sae.update_std


def _build(
    store: Store,
    saes: Mapping[str, SAE],
    folder: Path,
    plan: AtlasPlan,
    model: "Model | None",
    progress: bool,
) -> None:
    """All files of the data but the database, those that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = Captions.of(map(captions_of(store), (sample.prompt for sample in store.samples)))
    for number, (name, sae) in enumerate(saes.items()):
        file = atlas_files.sae_file(folder, number)
        if not file.exists():
            describe(store, name, sae, plan, captions, file, progress)
    if not (folder / atlas_files.RELATIONS).exists():
        relate(folder, list(saes.values()), plan)
    if model is not None and not (folder / atlas_files.MEANING).exists():
        embed_captions(folder, store, len(saes), model, progress)
    if not (folder / atlas_files.THUMBNAILS).exists():
        atlas_files.write_thumbnails(folder, store, len(saes), progress)


def check(store: Store, saes: Mapping[str, SAE], plan: AtlasPlan) -> None:
    """Refuse SAEs that are not of the store's blocks, and sizes that would not fit into memory."""
    if not len(store) or not saes:
        raise UnboxError("an atlas needs at least one image and one SAE")
    for name, sae in saes.items():
        if sae.block not in store.blocks:
            raise UnboxError(f"SAE {name} is of block '{sae.block}'; the store has {', '.join(store.blocks)}")
        if (store[sae.block].steps, store[sae.block].branches) != (store.schema.steps, store.schema.branches):
            raise UnboxError(f"{sae.block} was not recorded at the steps and branches of the store's other "
                             "blocks: an atlas is of blocks that were recorded together")  # fmt: skip
        if store[sae.block].width != sae.width:
            raise UnboxError(f"SAE {name} reads vectors of width {sae.width}, {sae.block} in the store has "
                             f"{store[sae.block].width}: they are of different models")  # fmt: skip
        grid = grid_of(store[sae.block])
        size = feature_statistics.pass_bytes(sae.latents, grid, plan, len(store), sae.k)
        require(size, f"an atlas of {name}, of {sae.latents:,} latents and {plan.top:,} top images of each,")


def describe(
    store: Store, name: str, sae: SAE, plan: AtlasPlan, captions: Captions, file: Path, progress: bool
) -> None:
    """One pass over the store for an SAE: its statistics, examples, labels and relations, to `file`."""
    rows, saved = store[sae.block], file.with_suffix(".npz")
    with tqdm(total=len(store), desc=name, unit="image", disable=not progress) as bar:
        found = gather(sae, rows, plan, saved, bar.update)
    tally, examples = found.tally, found.examples
    labels = caption_labels.label_features(
        captions, examples.captions.image, examples.captions.peak, found.scale, found.probes, tally.probe_peak
    )
    decoys = caption_labels.decoys(
        captions, examples.captions.image[:, : plan.top], found.probes, tally.probe_peak, plan.decoys
    )
    called = [each.label for each in directions_of(sae)]
    scores = caption_labels.name_scores(captions, called, found.scale, found.probes, tally.probe_peak)
    presence = relations.presence(*tally.places.pairs, found.place_rows, sae.latents)
    related = {
        "neighbours": relations.neighbours(sae.W_dec.detach().cpu().float().numpy(), plan.related),
        "coactive": relations.together(presence, presence, plan.related),
    }
    atlas_files.write_sae(file, found, plan, decoys, labels, related, scores)
    saved.unlink(missing_ok=True)


def relate(folder: Path, saes: Sequence[SAE], plan: AtlasPlan) -> None:
    """For every feature those of other blocks that are active in the same places: ids over all SAEs."""
    starts = np.cumsum([0, *(sae.latents for sae in saes)])
    found, full = [], []
    for number, sae in enumerate(saes):
        rows, features, places, full_grid = atlas_files.read_places(folder, number)
        found.append(relations.presence(rows, features, places, sae.latents))
        full.append(full_grid)
    tables = []
    for number, sae in enumerate(saes):
        # Where positions are sampled, the places of two blocks are not the same places.
        others = [i for i, other in enumerate(saes) if other.block != sae.block and full[i] and full[number]]
        tables.append(relations.elsewhere(found, others, number, starts, plan.related))
    joined = map(np.concatenate, zip(*tables, strict=True))
    with atlas_files.writing(folder / atlas_files.RELATIONS) as target:
        atlas_files.write_arrays(target, relations.RelatedArrays(*joined)._asdict())
    for number in range(len(saes)):
        atlas_files.places_file(atlas_files.sae_file(folder, number)).unlink()


def captions_of(store: Store) -> Callable[[str], str]:
    """What is said by a prompt of a store: the prompt, without the signs of its weights if they were read."""
    return prompt_options(store.provenance).reading.text


def embed_captions(folder: Path, store: Store, count: int, model: "Model", progress: bool) -> None:
    """Embeddings of the captions of each feature's top images, for search by meaning: of as much of each as
    the model was told."""
    images, peaks = atlas_files.top_images(folder, count)
    used = np.unique(images[images >= 0])
    caption = captions_of(store)
    texts = sorted({caption(store.samples[int(i)].prompt) for i in used})
    number = {text: i for i, text in enumerate(texts)}
    starts = tqdm(range(0, len(texts), 64), desc="captions", disable=not progress)
    chunks = prompt_options(store.provenance).reading.chunks
    parts = [text_embeddings.embed(model, texts[i : i + 64], chunks=chunks) for i in starts]
    vectors = np.concatenate(parts)
    place = np.zeros(len(store), np.int64)
    place[used] = [number[caption(store.samples[int(i)].prompt)] for i in used]
    features, mean = text_embeddings.feature_vectors(vectors, np.where(images >= 0, place[images], -1), peaks)
    with atlas_files.writing(folder / atlas_files.MEANING) as target:
        atlas_files.write_arrays(target, {"features": features.astype(np.float32), "mean": mean[None]})


def fill_database(folder: Path, store: Store, saes: Mapping[str, SAE], given: Sequence[GivenLabel]) -> None:
    """The database: captions, every feature's statistics and labels, and those given before."""
    made = database.now()
    path = folder / atlas_files.DATABASE
    with publish_file(path) as temporary, database.connect(temporary, write=True) as connection:
        connection.executescript(database.SCHEMA)
        database.insert(connection, "images", ((i, s.prompt, s.seed) for i, s in enumerate(store.samples)))
        database.add_caption_words(connection, (sample.prompt for sample in store.samples))
        start = 0
        for number, sae in enumerate(saes.values()):
            with h5py.File(atlas_files.sae_file(folder, number)) as arrays:
                statistics = feature_statistics.summary(
                    arrays, store.schema.steps, len(store[sae.block]), len(store)
                )
                labels = atlas_files.read_labels(arrays)
                scores = atlas_files.read_name_scores(arrays)
            database.add_features(connection, number, sae.block, start, statistics)
            of_words = [(i, label) for i, label in enumerate(labels, start) if label.text]
            rows = ((i, label.text, "words", "log-odds", made, label.score, "{}") for i, label in of_words)
            database.insert(connection, "labels", rows)
            if named := directions_of(sae):  # last: the newest of a kind is shown
                pairs = enumerate(zip(named, scores, strict=True), start)
                rows = ((i, each.label, "words", each.kind, made, score, "{}") for i, (each, score) in pairs)
                database.insert(connection, "labels", rows)
            terms = ((i, w.term, w.z) for i, label in enumerate(labels, start) for w in label.words)
            database.insert(connection, "terms", terms)
            start += sae.latents
        put_labels(connection, given, saes)


def _index(
    store: Store,
    saes: Mapping[str, SAE],
    keys: Mapping[str, str],
    plan: AtlasPlan,
    data: str,
    model: "Model | None",
) -> dict[str, Any]:
    attributes = ("block", "latents", "k", "width", "update_std")
    return {
        "format": atlas_files.FORMAT,
        "version": atlas_files.VERSION,
        "data": data,
        "store": {
            "digest": store.digest,
            "images": len(store),
            "steps": list(store.schema.steps),
            "branches": list(store.schema.branches),
            "provenance": dict(store.provenance),
        },
        "plan": plan.to_json(),
        "encoders": None if model is None else model.system.name,
        "saes": [
            {"name": name, **{a: getattr(sae, a) for a in attributes}, "key": keys[name]}
            for name, sae in saes.items()
        ],
        "identities": {name: sae.identity for name, sae in saes.items()},
    }
