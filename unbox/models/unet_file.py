"""A UNet of its configuration and a file of weights: the base's own UNet is never read to be thrown away."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import safe_open

from unbox.errors import UnboxError
from unbox.models.pipeline_files import chosen
from unbox.models.weight_files import first, kind_of, unpickled

#: The tensor of a UNet that reads the guidance scale, as those of latent consistency models do.
GUIDANCE_READER = "time_embedding.cond_proj.weight"


def unet_of(config: Path, weights: Path, dtype: torch.dtype) -> UNet2DConditionModel:
    """The UNet that a `config.json` describes with the weights of a file, folder or repository, in `dtype`.

    Laid out without memory; each tensor is read, turned to `dtype` and put in its place. Raises UnboxError
    for weights that are not of such a UNet, with the kind that they seem to be.
    """
    found: dict[str, tuple[int, ...]] = {}
    state: dict[str, torch.Tensor] = {}
    for name, tensor in _tensors(weights):
        found[name] = tuple(tensor.shape)
        state[name] = tensor.to(dtype)
    settings = UNet2DConditionModel.load_config(str(config))
    if GUIDANCE_READER in found and settings.get("time_cond_proj_dim") is None:
        settings = {**settings, "time_cond_proj_dim": found[GUIDANCE_READER][1]}
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(settings)
    _check(weights, found, {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()})
    unet.load_state_dict(state, assign=True)
    return unet.eval()


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a UNet file, or of the folder or repository that holds one."""
    for file in _files(path):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    yield name, tensors.get_tensor(name)
        else:
            yield from unpickled(file).items()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    folder = path / "unet" if (path / "unet").is_dir() else path
    names = [file.name for file in folder.iterdir()]
    safe = [name for name in names if name.endswith(".safetensors")]
    if len(safe) == 1:
        return [folder / safe[0]]
    found = chosen(names, f"the UNet's folder {folder}")
    return [folder / name for name in found.files if name.endswith(".safetensors")]


def _check(path: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UnboxError where the tensors are not those of the UNet."""
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    if missing or unknown:
        kind = kind_of(found)
        use = {"a LoRA": "; a LoRA is given as lora= (--lora)"}.get(kind, "")
        if kind.startswith("a whole checkpoint"):
            use = "; a checkpoint is given as the model (--model)"
        raise UnboxError(
            f"{path} is not a UNet for this base, but {kind}: {len(missing)} tensors are missing "
            f"(like {first(missing)}) and {len(unknown)} unknown (like {first(unknown)}){use}"
        )
    for name, shape in found.items():
        if shape != wanted[name]:
            raise UnboxError(
                f"{path} is a UNet of another size than the base's: its {name} is {shape}, not {wanted[name]}"
            )
