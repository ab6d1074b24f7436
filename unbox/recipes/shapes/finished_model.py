"""A finished Shapes model taken apart into the stages that made it, so that its finish can go on."""

import json
from collections.abc import Mapping
from pathlib import Path

from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from activation_store.files import publish_folder, write_json
from unbox.errors import UnboxError
from unbox.models.load import load
from unbox.recipes.shapes.networks import make_unet, make_vae
from unbox.recipes.shapes.shapes_card import START, orders_of
from unbox.recipes.shapes.train_critics import CRITIC_NAMES
from unbox.recipes.shapes.vae_stage import MEASURED
from unbox.sae.safetensors_io import write_tensors
from unbox.shapes.factor_critics import load_critic


def take_apart(pipeline: StableDiffusionXLPipeline, out: Path) -> None:
    """Write a Shapes model's tokenizer, VAE, text encoders (without the reader that they were trained with)
    and UNet into `out` as finished stages of the order `again`, with the package's two critics; a stage that
    is there stays. Raises UnboxError for another kind of model."""
    parts = {"UNet": (pipeline.unet, make_unet()), "VAE": (pipeline.vae, make_vae())}
    for name, (given, own) in parts.items():
        if _shapes(given.state_dict()) != _shapes(own.state_dict()):
            raise UnboxError(
                f"the order 'again' goes on from a model that `unbox recipe shapes` made: the {name} of "
                "--start has other layers"
            )
    if not (out / "tokenizer").exists():
        with publish_folder(out / "tokenizer") as new:
            pipeline.tokenizer.save_pretrained(new)
    both = {"one": pipeline.text_encoder, "two": pipeline.text_encoder_2}
    text = {f"text.{name}.{key}": p for name, each in both.items() for key, p in each.state_dict().items()}
    config = pipeline.vae.config
    if not (out / MEASURED).exists():
        write_json(out / MEASURED, {key: list(config[key]) for key in ("latents_mean", "latents_std")})
    if not (out / START).exists():
        write_json(out / START, {"orders": orders_of(Path(pipeline.name_or_path))})
    _stage(out / "vae", "vae", pipeline.vae.state_dict())
    _stage(out / "text", "text", text)
    _stage(out / "base-again", "unet", pipeline.unet.state_dict())
    for stage, critic in CRITIC_NAMES.items():
        _stage(out / stage, stage, load_critic(critic).state_dict())


def start_again(model: str, out: Path) -> None:
    """Load a Shapes model (folder or name) in float32, whatever the rest of the run computes in, and take it
    apart. Raises UnboxError as both do."""
    take_apart(load(model, device="cpu", dtype="float32").pipeline, out)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _stage(folder: Path, role: str, tensors: Mapping[str, Tensor]) -> None:
    """A checkpoint of a run that has ended, as `unbox.training.loop` leaves it."""
    if folder.exists():
        return
    with publish_folder(folder) as new:
        kept = {f"average.{name}": tensor.float().contiguous() for name, tensor in tensors.items()}
        write_tensors(new / f"{role}.safetensors", kept)
        (new / "state.json").write_text(json.dumps({"step": 1, "done": True, "steps": 1}))
