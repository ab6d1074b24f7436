"""Which files of a diffusers pipeline are needed, by their names alone: of a folder, or of the Hub's listing.

Weights of a component lie in one file or in shards, as they are or as a variant (fp16, bf16), in safetensors
or in pickles. One set of them is needed; what else a repository holds (other precisions, single files, ONNX)
is not.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from unbox.errors import UnboxError
from unbox.json_types import JSON

#: Components of a pipeline that have weights, whatever their folder holds.
WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2")
#: Variants in the order in which they are taken; "" has no mark in its name. Others come last, by name.
PREFERRED = ("fp16", "", "bf16")

_SHARD = r"-(?P<{}>\d+)-of-(?P<{}_of>\d+)"
_WEIGHTS = re.compile(
    rf"(?P<stem>diffusion_pytorch_model|model|pytorch_model)(?:{_SHARD.format('old', 'old')})?"
    rf"(?:\.(?P<variant>[A-Za-z][\w]*))?(?:{_SHARD.format('new', 'new')})?\.(?P<kind>safetensors|bin)"
)
#: Configuration and tokenizers; indices of shards are taken with their weights.
_TEXTS = re.compile(r"(?!.*\.index\.).*\.(json|txt|model)")
#: The files of a tokenizer, either of which are enough.
_TOKENIZERS = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})


@dataclass(frozen=True)
class ComponentWeights:
    """One whole set of a component's weights."""

    variant: str
    """"" where the names have no mark of one."""
    pickled: bool
    files: tuple[str, ...]
    """Names in the component's folder, the index of shards among them."""


def component_weights(names: Collection[str]) -> list[ComponentWeights]:
    """Every whole set of weights among the names of a component's folder, safetensors first."""
    found: dict[tuple[bool, str], list[re.Match[str]]] = {}
    for name in sorted(names):
        if (match := _WEIGHTS.fullmatch(name)) is not None:
            found.setdefault((match["kind"] == "bin", match["variant"] or ""), []).append(match)
    whole = []
    for (pickled, variant), matches in sorted(found.items()):
        files = [match[0] for match in matches if not _is_shard(match)]
        if not files:
            shards = [match[0] for match in matches]
            of = {int(match["old_of"] or match["new_of"]) for match in matches}
            indices = [name for name in names if _is_index(name, variant, pickled)]
            if of != {len(shards)} or not indices:
                continue
            files = [*shards, *indices]
        whole.append(ComponentWeights(variant, pickled, tuple(files)))
    return whole


def _is_shard(match: re.Match[str]) -> bool:
    return match["old"] is not None or match["new"] is not None


def _is_index(name: str, variant: str, pickled: bool) -> bool:
    """Whether a name is of the index of a variant's shards; the variant stands before or after `.index`."""
    kind = "bin" if pickled else "safetensors"
    marks = name.split(".")
    if marks[-1] != "json" or "index" not in marks or kind not in marks:
        return False
    return set(marks[1:]) - {kind, "index", "json"} == ({variant} if variant else set())


def chosen(
    names: Collection[str], where: str, first: str | None = None, allow_pickle: bool = False
) -> ComponentWeights:
    """The weights to be taken of a component: of variant `first` if there are, then by `PREFERRED`.

    `where` is named in refusals. Raises UnboxError where there is no whole set, or pickles alone and they
    are not allowed.
    """
    sets = component_weights(names)
    safe = [each for each in sets if not each.pickled]
    if not safe and not (allow_pickle and sets):
        raise UnboxError(_nothing(names, where, bool(sets)))
    order = (*(() if first is None else (first,)), *PREFERRED)
    usable = safe or sets
    return min(usable, key=lambda each: order.index(each.variant) if each.variant in order else len(order))


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:6]) + (", ..." if len(names) > 6 else "") or "nothing"


def _nothing(names: Collection[str], where: str, pickles: bool) -> str:
    listed = _listed(names)
    if pickles:
        return (
            f"{where} holds its weights as pickles alone ({listed}), which could run programs: get them as "
            ".safetensors, or allow it, load(allow_pickle=True) (--allow-pickle), which reads tensors alone"
        )
    if any(_WEIGHTS.fullmatch(name) for name in names):
        return f"{where} has only some shards of its weights, or not their index: {listed}; fetch it again"
    return f"{where} has no weights: it holds {listed}; fetch or copy it again"


@dataclass(frozen=True)
class PipelineFiles:
    """What of a pipeline is needed."""

    weights: Mapping[str, ComponentWeights]
    """Component -> its weights; without those that come from elsewhere."""
    others: tuple[str, ...]
    """Configurations and tokenizers, by their paths in the pipeline."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file, by its path in the pipeline."""
        of_weights = [f"{part}/{name}" for part, found in self.weights.items() for name in found.files]
        return (*self.others, *of_weights)


def pipeline_files(
    paths: Collection[str],
    index: Mapping[str, JSON],
    where: str,
    without: Collection[str] = (),
    allow_pickle: bool = False,
) -> PipelineFiles:
    """What is needed of the files at `paths` (in the pipeline) by its `index`, model_index.json.

    `without`: components whose weights come from elsewhere. The other components' weights are of the UNet's
    variant where they have it. Raises UnboxError, naming `where`, for components without weights.
    """
    folders: dict[str, list[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, []).append(name)
    weights: dict[str, ComponentWeights] = {}
    first = None
    for part in sorted(components(index), key=lambda part: part != "unet"):
        names = folders.get(part, [])
        if part in without or not (part in WEIGHTED or any(map(_WEIGHTS.fullmatch, names))):
            continue
        weights[part] = chosen(names, f"{where}, in {part}/,", first, allow_pickle)
        if part == "unet":
            first = weights[part].variant
    for part in components(index):
        names = folders.get(part, [])
        if part.startswith("tokenizer") and not any(each <= set(names) for each in _TOKENIZERS):
            raise UnboxError(
                f"{where}, in {part}/, has no tokenizer: it holds {_listed(names)}; fetch it again"
            )
    texts = [
        f"{folder}/{name}" if folder else name
        for folder in ("", *components(index))
        for name in folders.get(folder, [])
        if (_TEXTS if folder else re.compile("model_index.json|system.json")).fullmatch(name)
    ]
    return PipelineFiles(weights, tuple(sorted(texts)))


def components(index: Mapping[str, JSON]) -> list[str]:
    """Names of the components that a pipeline has, by its model_index.json."""
    return [
        name
        for name, kind in index.items()
        if not name.startswith("_") and isinstance(kind, list) and len(kind) == 2 and kind[0] is not None
    ]


def paths_in(folder: Path) -> list[str]:
    """Paths of the files in a folder and one level below, as they are named on the Hub."""
    files = [*folder.glob("*"), *folder.glob("*/*")]
    return [path.relative_to(folder).as_posix() for path in files if path.is_file()]
