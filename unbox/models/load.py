"""`load`: from a system's name, a Hub id, a diffusers folder or a single file to a model ready to run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from unbox.errors import FieldError, UnboxError
from unbox.models.checks import check_part, check_unnamed, check_weights
from unbox.models.devices import find_device
from unbox.models.hub import base_folder, part_file, quiet, ready_line
from unbox.models.model import Model
from unbox.models.schedulers import NativeEulerScheduler, scheduler_class
from unbox.models.system_table import GENERIC, SDXL, SYSTEMS, find_system
from unbox.models.systems import PIPELINE_FILE, System, folder_system
from unbox.text_files import read_json_object
from unbox.validation import FilePath, Text, checked

OFFLOADS = {"model": "enable_model_cpu_offload", "sequential": "enable_sequential_cpu_offload"}
_RULES = {
    "source": Text,
    "offload": Literal["model", "sequential"] | None,
    "compile": bool,
    "download": bool,
}
SINGLE_FILE = (".safetensors", ".ckpt")
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def load(
    source: str | Path,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    *,
    system: str | System | None = None,
    unet: str | Path | None = None,
    lora: str | Path | None = None,
    config: str | Path | None = None,
    offload: str | None = None,
    compile: bool = False,
    download: bool = True,
) -> Model:
    """A model ready to run.

    `source`: a system's name (`unbox models` lists them), a Hub id, a diffusers folder, or a single
    `.safetensors` checkpoint in the original layout (then `config` is a diffusers folder with its
    configuration and tokenizers; the default is SDXL base's). `system` samples the weights by that row
    instead of their own. `unet` and `lora` are files put over the base in the place of the system's own,
    the LoRA as an adapter.
    `dtype`: default as stored, but float16 becomes float32 on a CPU. `device`: default the accelerator if
    there is one. `offload`: "model" or "sequential". `compile` compiles the repeated blocks (hooks still
    fire). `download=False` never touches the network.
    Raises UnboxError for unknown names, weights that are nowhere, and weights that do not fit the system.
    """
    source = str(source)
    arguments = {"source": source, "offload": offload, "compile": compile, "download": download}
    parts = {"unet": unet, "lora": lora, "config": config}
    for name, value in {**arguments, **parts}.items():
        checked(_RULES.get(name, FilePath | None), name, value, "load")  # type: ignore[arg-type]  # rules
    row, place = _find(source, system, download)
    if config is not None and place.is_dir():
        raise UnboxError(
            f"config (--config) is for a single-file checkpoint; {source} is a folder with its own"
        )
    target = find_device(device)
    with quiet():
        with _whole(place):
            weights_type = _dtype(dtype, place, target)
            pipeline = _base_pipeline(place, weights_type, config, download)
        if not row.scheduler:
            check_unnamed(source, pipeline.scheduler)
        row = _complete(row, pipeline)
        for kind, path in _parts(row, unet, lora, download):
            with _whole(path):
                _put(pipeline, kind, path)
        if unet is None and not any(part.kind == "unet" for part in row.parts):
            check_weights(row, _shipped_prediction(place), source)
        row = replace(row, guidance_embedded=pipeline.unet.config.time_cond_proj_dim is not None)
        set_scheduler(pipeline, row)
        refiner = _refiner(row, pipeline, weights_type, download) if row.refiner else None
    model = Model(pipeline, row, source, refiner)
    for each in model.pipelines:
        _place(each, target, offload)
        if compile:
            each.unet.compile_repeated_blocks()
    return model


def _find(source: str, system: str | System | None, download: bool) -> tuple[System, Path]:
    """The row and the base weights (a folder or one file) that a source means."""
    asked = find_system(system) if isinstance(system, str) else system
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
        return asked or SYSTEMS[source], base_folder(reference, download)
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return asked or _row_of_repository(source), base_folder(source, download)
    if "/" in source or path.suffix in SINGLE_FILE:
        raise UnboxError(f"there is nothing at {source}; give a folder, a file or a system's name")
    find_system(source)
    raise AssertionError("find_system raises for an unknown name")


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


def _dtype(asked: torch.dtype | str | None, path: Path, device: torch.device) -> torch.dtype:
    if isinstance(asked, torch.dtype) and asked.is_floating_point:
        return asked
    if asked is not None:
        kind = Literal["float32", "bfloat16", "float16"]
        named: torch.dtype = getattr(torch, checked(kind, "dtype", asked, "load"))  # type: ignore[arg-type]
        return named
    stored = _stored_dtype(path)
    return torch.float32 if device.type == "cpu" and stored == torch.float16 else stored


def _stored_dtype(path: Path) -> torch.dtype:
    """The type of the first floating tensor of the UNet's (or the single) file; float32 if none is found."""
    for file in sorted((path / "unet").glob("*.safetensors")) if path.is_dir() else [path]:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    kind = tensors.get_slice(name).get_dtype()
                    if kind in _DTYPES:
                        return _DTYPES[kind]
    return torch.float32


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say of weights that are cut short, missing or not weights which they are and what to do."""
    try:
        yield
    except UnboxError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UnboxError(
            f"{path} could not be loaded ({type(error).__name__}: {error}); it may be incomplete: fetch or "
            "copy it again, or see `unbox models` for what is ready"
        ) from error


def _base_pipeline(
    path: Path, dtype: torch.dtype, config: str | Path | None, download: bool
) -> DiffusionPipeline:
    from diffusers import StableDiffusionXLPipeline

    if path.is_dir():
        return _from_folder(DiffusionPipeline, path, dtype)
    _check_layout(path)
    folder = Path(config) if config is not None else base_folder(SDXL, download)
    return StableDiffusionXLPipeline.from_single_file(
        str(path), config=str(folder), dtype=dtype, local_files_only=True, add_watermarker=False
    )


def _check_layout(path: Path) -> None:
    """Refuse a file that holds a part of a model where a whole one is needed."""
    if path.suffix != ".safetensors":
        return
    with safe_open(path, "pt") as tensors:
        names = list(tensors.keys())
    if not any(name.startswith("model.diffusion_model.") for name in names):
        raise UnboxError(
            f"{path} is no whole checkpoint in the original layout: it has {_first(names)} and no "
            "model.diffusion_model.*; a UNet or a LoRA goes over a base, unet= or lora= (--unet, --lora)"
        )


def _from_folder(
    kind: type[DiffusionPipeline], path: Path, dtype: torch.dtype, **parts: torch.nn.Module
) -> DiffusionPipeline:
    """A pipeline of a folder, in half precision where it has that, without SDXL's watermark."""
    variant = "fp16" if list(path.glob("unet/*.fp16.safetensors")) else None
    name = str(read_json_object(path / PIPELINE_FILE).get("_class_name"))
    plain = {"add_watermarker": False} if name.startswith("StableDiffusionXL") else {}
    return kind.from_pretrained(path, dtype=dtype, variant=variant, local_files_only=True, **parts, **plain)


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


def _put(pipeline: DiffusionPipeline, kind: str, path: Path) -> None:
    if kind == "lora":
        place = {"weight_name": path.name} if path.is_file() else {}
        pipeline.load_lora_weights(str(path.parent if path.is_file() else path), adapter_name="lora", **place)
        return
    weights = _unet_weights(path)
    result = pipeline.unet.load_state_dict(weights, strict=False)
    if result.missing_keys or result.unexpected_keys:
        raise UnboxError(
            f"{path} is not a UNet for this base: {len(result.missing_keys)} tensors are missing "
            f"(like {_first(result.missing_keys)}) and {len(result.unexpected_keys)} unknown "
            f"(like {_first(result.unexpected_keys)})"
        )


def _unet_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a UNet file, or of the folder or repository that holds one."""
    if path.is_dir():
        files = sorted(path.glob("unet/*.safetensors")) or sorted(path.glob("*.safetensors"))
        if not files:
            raise UnboxError(f"{path} holds no UNet: no .safetensors in it or in its unet/")
        return {name: tensor for file in files for name, tensor in load_file(file).items()}
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UnboxError(
            f"{path} is not a pickle of tensors alone, and anything else in one could run programs: "
            "get the weights as .safetensors"
        ) from error


def _first(names: list[str]) -> str:
    return names[0] if names else "none"


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


def _refiner(
    row: System, pipeline: DiffusionPipeline, dtype: torch.dtype, download: bool
) -> DiffusionPipeline:
    """The ensemble's second pipeline; shares the base's scheduler class, VAE and second text encoder."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    reference = str(row.refiner)
    folder = Path(reference) if Path(reference).is_dir() else base_folder(reference, download)
    shared = {name: getattr(pipeline, name) for name in ("vae", "text_encoder_2", "tokenizer_2")}
    refiner = _from_folder(StableDiffusionXLImg2ImgPipeline, folder, dtype, **shared)
    set_scheduler(refiner, row)
    return refiner


def _place(pipeline: DiffusionPipeline, device: torch.device, offload: str | None) -> None:
    if offload is None:
        pipeline.to(device)
    elif device.type == "cpu":
        raise UnboxError("offload moves parts between a CPU and an accelerator; there is none here")
    else:
        getattr(pipeline, OFFLOADS[offload])(device=device)
