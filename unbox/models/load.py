"""`load`: from a system's name, a Hub id, a diffusers folder or a single file to a model ready to run."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors import safe_open

from unbox.errors import FieldError, UnboxError
from unbox.models.bounded_vae import bound_vae
from unbox.models.checks import check_part, check_unnamed, check_weights
from unbox.models.devices import computed_type, find_device
from unbox.models.hub import base_folder, part_file, quiet, ready_line
from unbox.models.lora_file import put_lora, set_strengths
from unbox.models.model import Model
from unbox.models.pipeline_folder import damage_named, pipeline_from_folder
from unbox.models.pipeline_kind import check_parts, check_scheduler
from unbox.models.schedulers import NativeEulerScheduler, scheduler_class
from unbox.models.single_file import SINGLE_FILE, config_folder, from_single_file, layout_of
from unbox.models.system_table import GENERIC, SYSTEMS, find_system
from unbox.models.systems import PIPELINE_FILE, SHARED, System, folder_system
from unbox.models.unet_file import unet_of
from unbox.models.vae_choice import find_vae, load_vae
from unbox.models.weight_files import stored_dtype, titles_of
from unbox.text_files import read_json_object
from unbox.validation import FilePath, Several, Text, checked

OFFLOADS = {"model": "enable_model_cpu_offload", "sequential": "enable_sequential_cpu_offload"}
_RULES = {
    "source": Text,
    "offload": Literal["model", "sequential"] | None,
    "compile": bool,
    "compile_whole": bool,
    "download": bool,
    "vae": Text | None,
    "allow_pickle": bool,
}


def load(
    source: str | Path,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    *,
    system: str | System | None = None,
    unet: str | Path | None = None,
    lora: str | Path | None = None,
    add_lora: str | Path | Sequence[str | Path] = (),
    lora_strength: float | Sequence[float] = (),
    vae: str | Path | None = None,
    config: str | Path | None = None,
    offload: str | None = None,
    compile: bool = False,
    compile_whole: bool = False,
    download: bool = True,
    allow_pickle: bool = False,
) -> Model:
    """A model ready to run.

    `source`: a system's name (`unbox models` lists them), a Hub id, a diffusers folder, or a single
    `.safetensors` checkpoint in the original layout, of SDXL or its refiner (then `config` is a diffusers
    folder with its configuration and tokenizers; the default is SDXL's own, 4 MB of the Hub). `system`
    samples the weights by that row instead of their own: a name, or the `system.json` beside a LoRA of ours.
    `unet` and `lora` are files put over the base in the place of the system's own, the LoRA as an adapter;
    `add_lora` are LoRAs beside it, and `lora_strength` has a number for each, that one first (adapters
    "lora", "lora2", ...); `vae` is a VAE in the place of the base's: "fp16-fix", "taesd" (small, for
    previews), a Hub id, a folder or a file. What something else takes the place of is neither fetched nor
    read. `dtype`: default as stored where the device computes in it (`unbox.models.devices.computed_type`).
    `device`: default the accelerator if there is one. `offload`: "model" or "sequential". `compile` compiles
    the repeated blocks (hooks still fire), `compile_whole` the whole UNet (edits and what blocks are given
    and give can still be had, nothing inside them). `download=False` never touches the network.
    `allow_pickle`: tensors of a folder that has its weights as pickles alone are read, and nothing else.
    Raises UnboxError for unknown names, weights that are nowhere, and weights that do not fit the system.
    """
    source, vae = str(source), None if vae is None else str(vae)
    _check_arguments(
        source=source, offload=offload, compile=compile, compile_whole=compile_whole, unet=unet, lora=lora,
        config=config, vae=vae, download=download, allow_pickle=allow_pickle,
    )  # fmt: skip
    row, reference = _find(source, system)
    replaced = {*row.replaced, *(name for name, each in (("unet", unet), ("vae", vae)) if each is not None)}
    place = _fetched(reference, replaced, download, allow_pickle)
    if config is not None and place.is_dir():
        raise UnboxError(
            f"config (--config) is for a single-file checkpoint; {source} is a folder with its own"
        )
    target = find_device(device)
    over = dict(_parts(row, unet, lora, download))
    folder = None if config is None else _expanded(config)
    base = _Base(place, folder, over.get("unet"), vae, download, allow_pickle)
    refiner = _fetched(row.refiner, SHARED, download, allow_pickle) if row.refiner else None
    with quiet():
        with damage_named(place):
            weights_type = _dtype(dtype, place, target, "unet" not in over)
        loras = _named_loras(row, over.get("lora"), add_lora)
        model = _assembled(source, row, base, weights_type, loras, lora_strength, refiner)
    for each in model.pipelines:
        _ready(each, target, offload, compile, compile_whole)
    return model


def _check_arguments(**given: Any) -> None:
    """Raises UnboxError for arguments of `load` that break their rules, or do not go together."""
    for name, value in given.items():
        checked(_RULES.get(name, FilePath | None), name, value, "load")  # type: ignore[arg-type]  # rules
    if given["compile_whole"] and (given["compile"] or given["offload"] == "sequential"):
        beside = "compile (--compile)" if given["compile"] else "offload='sequential' (--offload sequential)"
        raise UnboxError(f"compile_whole (--compile-whole) cannot be beside {beside}: leave one of them out")


def _assembled(
    source: str, row: System, base: "_Base", dtype: torch.dtype, loras: Mapping[str, Path],
    strengths: float | Sequence[float], refiner_place: Path | None,
) -> Model:  # fmt: skip
    """The model on the CPU: its pipeline with LoRAs on it, the row's scheduler, the ensemble's refiner."""
    with damage_named(base.place):
        pipeline = base.pipeline(dtype)
    check_parts(pipeline, source)
    if not row.scheduler:
        check_scheduler(pipeline.scheduler, source)
        check_unnamed(source, pipeline.scheduler, titles_of(base.place))
    row = _complete(row, pipeline)
    for name, path in loras.items():
        with damage_named(path):
            put_lora(pipeline, path, name)
    set_strengths(pipeline, tuple(loras), strengths)
    if base.unet is None:
        check_weights(row, _shipped_prediction(base.place), source)
    row = replace(row, guidance_embedded=pipeline.unet.config.time_cond_proj_dim is not None)
    set_scheduler(pipeline, row)
    refiner = None if refiner_place is None else _refiner(row, refiner_place, pipeline, dtype)
    return Model(pipeline, row, source, refiner)


def _ready(
    pipeline: DiffusionPipeline, target: torch.device, offload: str | None, compile: bool, whole: bool
) -> None:
    """Bound the VAE's memory, put a pipeline on its device, compile its UNet as asked."""
    bound_vae(pipeline)
    if whole:
        from unbox.models.block_hooks import compile_whole

        compile_whole(pipeline.unet)
    _place(pipeline, target, offload)
    if compile:
        pipeline.unet.compile_repeated_blocks()


def _find(source: str, system: str | System | None) -> tuple[System, str | Path]:
    """The row and the base weights that a source means: a path here, or a reference (Hub id, bundled)."""
    asked = named_system(system) if isinstance(system, str) else system
    if asked is not None and not isinstance(asked, System):
        raise FieldError("load", "system", system, "should be a system or the name of one")
    path = _expanded(source)
    if path.exists() and source not in SYSTEMS:
        if path.is_dir() and not (path / PIPELINE_FILE).is_file():
            raise UnboxError(f"{source} is a folder without model_index.json, so not a diffusers pipeline")
        if path.is_file() and path.suffix not in SINGLE_FILE:
            raise UnboxError(f"{source} is no checkpoint: single files end in {' or '.join(SINGLE_FILE)}")
        carried = folder_system(path) if path.is_dir() else None
        return asked or carried or replace(GENERIC, name=path.stem), path
    if source in SYSTEMS:
        reference = SYSTEMS[source].base
        if reference is None:
            raise UnboxError(
                f"{source} has no public weights: name a checkpoint and its way of sampling, "
                f"load('CHECKPOINT', system='{source}') or --model CHECKPOINT --system {source}. "
                f"{ready_line()}"
            )
        return asked or SYSTEMS[source], reference
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return asked or _row_of_repository(source), source
    if "/" in source or path.suffix in SINGLE_FILE:
        raise UnboxError(f"there is nothing at {source}; give a folder, a file or a system's name")
    try:
        find_system(source)
    except UnboxError as error:
        raise UnboxError(f"{error}, and there is no folder or file {source} here") from None
    raise AssertionError("find_system raises for an unknown name")


def _fetched(reference: str | Path, without: Collection[str], download: bool, allow_pickle: bool) -> Path:
    """The folder or file of a reference: from the disk, or from the Hub without some components' weights."""
    if isinstance(reference, Path):
        return reference
    if Path(reference).is_dir():
        return Path(reference)
    return base_folder(reference, download, sorted(without), allow_pickle)


def _expanded(path: str | Path) -> Path:
    """The path, with ~ as the home folder. Raises UnboxError for the home of nobody."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UnboxError(f"{path} is in the home folder of a user that there is not") from None


def _row_of_repository(repo: str) -> System:
    """The row whose base is this repository; several rows share a repository of UNets or LoRAs."""
    for system in SYSTEMS.values():
        if system.base == repo and not system.parts and not system.refiner:
            return system
    users = [s.name for s in SYSTEMS.values() if repo in (part.repo for part in s.parts)]
    if users:
        raise UnboxError(f"{repo} holds weights of several systems; name one: {', '.join(users)}")
    return replace(GENERIC, name=repo.split("/")[1])


def _dtype(asked: torch.dtype | str | None, path: Path, device: torch.device, own_unet: bool) -> torch.dtype:
    if isinstance(asked, torch.dtype) and asked.is_floating_point:
        return asked
    if asked is not None:
        kind = Literal["float32", "bfloat16", "float16"]
        named: torch.dtype = getattr(torch, checked(kind, "dtype", asked, "load"))  # type: ignore[arg-type]
        return named
    return computed_type(_stored_dtype(path, own_unet), device)


def _stored_dtype(path: Path, own_unet: bool) -> torch.dtype:
    """The type of the first floating tensor of the UNet's (or the single) file, of the text encoders' where
    the UNet comes from elsewhere; float32 if none is found."""
    files = [path]
    if path.is_dir():
        parts = (*(("unet",) if own_unet else ()), "text_encoder_2", "text_encoder")
        files = [file for part in parts for file in sorted((path / part).glob("*.safetensors"))]
    return stored_dtype(files) or torch.float32


@dataclass(frozen=True)
class _Base:
    """What a pipeline is made of: a folder or a single file, and what comes in the place of its own parts."""

    place: Path
    config: Path | None
    unet: Path | None
    vae: str | None
    download: bool
    allow_pickle: bool

    def pipeline(self, dtype: torch.dtype) -> DiffusionPipeline:
        """The pipeline, in `dtype`, with the UNet's and the VAE's replacements in it from the first."""
        layout, folder = "", self.place
        if not folder.is_dir():
            layout = layout_of(folder)
            folder = config_folder(folder, layout, self.config, self.download)
        parts: dict[str, torch.nn.Module] = {}
        settings = read_json_object(folder / "unet" / "config.json")
        if self.unet is not None:
            with damage_named(self.unet):
                parts["unet"] = unet_of(folder / "unet" / "config.json", self.unet, dtype)
        if self.vae is not None:
            found = find_vae(self.vae, self.download)
            channels = int(settings.get("in_channels") or 4)
            with damage_named(found):
                parts["vae"] = load_vae(found, folder, dtype, channels)
        if layout:
            return from_single_file(self.place, layout, folder, dtype, **parts)
        return pipeline_from_folder(DiffusionPipeline, folder, dtype, self.allow_pickle, **parts)


def named_system(name: str) -> System:
    """The row of a name, or of a recipe's file (`lora/system.json`). Raises UnboxError for others."""
    path = _expanded(name)
    if name in SYSTEMS or path.suffix != ".json":
        return find_system(name)
    return System.from_json(read_json_object(path), name)


def _complete(row: System, pipeline: DiffusionPipeline) -> System:
    """A checkpoint without a row gets what its own configuration says."""
    if row.scheduler:
        return row
    return replace(
        row,
        scheduler=type(pipeline.scheduler).__name__,
        prediction=pipeline.scheduler.config.get("prediction_type", "epsilon"),
        image_to_image="Img2Img" in type(pipeline).__name__,
    )


def _parts(
    row: System, unet: str | Path | None, lora: str | Path | None, download: bool
) -> Iterator[tuple[str, Path]]:
    """Kind and place of what is put over the base: the user's own, in the place of the system's."""
    replacements = {kind: given for kind, given in (("unet", unet), ("lora", lora)) if given is not None}
    for part in row.parts:
        if part.kind not in replacements:
            yield part.kind, part_file(part, download)
    for kind, given in replacements.items():
        path = _expanded(given)
        if not path.exists():
            raise UnboxError(f"there is no {kind} file at {given}")
        check_part(row, path.name)
        yield kind, path


def _named_loras(
    row: System, first: Path | None, others: str | Path | Sequence[str | Path]
) -> dict[str, Path]:
    """Adapter -> its file or folder: the first LoRA, and those put on beside it."""
    given = (others,) if isinstance(others, str | Path) else others
    paths = [] if first is None else [first]
    for each in checked(Several[FilePath], "add_lora", given, "load"):
        if not (path := _expanded(each)).exists():
            raise UnboxError(f"there is no LoRA at {each}")
        check_part(row, path.name)
        paths.append(path)
    return {f"lora{number if number > 1 else ''}": path for number, path in enumerate(paths, 1)}


def _shipped_prediction(path: Path) -> str | None:
    """Prediction type of the scheduler beside the weights, or that a single file tells; None if neither.

    Single files tell it in their metadata (`modelspec.prediction_type`) or by a tensor named `v_pred`.
    """
    config = path / "scheduler" / "scheduler_config.json"
    if config.is_file():
        return read_json_object(config).get("prediction_type")
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, "pt") as tensors:
        stated = (tensors.metadata() or {}).get("modelspec.prediction_type")
        return "v_prediction" if stated == "v" or "v_pred" in tensors.keys() else stated  # noqa: SIM118


def set_scheduler(pipeline: DiffusionPipeline, row: System) -> None:
    """The row's scheduler, on the configuration shipped with the weights where the row does not speak."""
    changes = {"prediction_type": row.prediction, **row.scheduler_config}
    cls = scheduler_class(row.scheduler)
    if cls is NativeEulerScheduler:
        changes["model_dtype"] = str(pipeline.unet.dtype).removeprefix("torch.")
    pipeline.scheduler = cls.from_config(pipeline.scheduler.config, **changes)  # type: ignore[attr-defined]


def _refiner(row: System, folder: Path, pipeline: DiffusionPipeline, dtype: torch.dtype) -> DiffusionPipeline:
    """The ensemble's second pipeline; shares the base's scheduler class, VAE and second text encoder."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    shared = {name: getattr(pipeline, name) for name in (*SHARED, "tokenizer_2")}
    refiner = pipeline_from_folder(StableDiffusionXLImg2ImgPipeline, folder, dtype, **shared)
    set_scheduler(refiner, row)
    return refiner


def _place(pipeline: DiffusionPipeline, device: torch.device, offload: str | None) -> None:
    if offload is None:
        pipeline.to(device)
    elif device.type == "cpu":
        raise UnboxError("offload moves parts between a CPU and an accelerator; there is none here")
    else:
        getattr(pipeline, OFFLOADS[offload])(device=device)
