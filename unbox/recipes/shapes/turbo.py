"""The few-step finish of the Shapes UNet: in which blocks the work is done, and what a seed decides.

The many-step model draws with its shallow transformer blocks alone, and one step of it averages over what a
caption leaves open. Two stages at the timesteps of a four-step run mend that, with shallow blocks dropped
at random: `deep` on real pictures, then `turbo` on the many-step model's own samples from the same noise.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, Transformer2DModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTokenizer

from activation_store.files import publish_file
from unbox.recipes.loop import Plan, train
from unbox.recipes.shapes.data import Pictures, draw_pictures
from unbox.recipes.shapes.text import tokenize
from unbox.recipes.shapes.unet import (
    OBJECT_WEIGHT,
    TURBO_STEPS,
    Conditions,
    Diffusion,
    make_unet,
    predict,
    sample,
)
from unbox.recipes.shapes.vae import encode
from unbox.shapes import Scene, caption, sample_like, sample_scene
from unbox.words import DEFAULT_BLOCKS, block_path

DEEP = Plan(steps=200_000, minutes=25, rate=1.5e-3, warmup=100, ema=0.998, decay_from=0.5)
TURBO = Plan(steps=200_000, minutes=20, rate=1.2e-3, warmup=50, ema=0.998, decay_from=0.3)


@torch.no_grad()
def matched_pairs(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    folder: Path,
    captions: int,
    pictures: int = 16,
    seed: int = 11,
    part: int = 64,
) -> dict[str, Tensor]:
    """Which noise should become which picture, so that the seed decides what a caption leaves open.

    For each caption, scenes that it describes equally well and as many noises are matched one to one by the
    largest total inner product (optimal transport within the caption). The noise stays exactly Gaussian, and
    from one noise there is one right answer instead of an average of many. Kept in parts, so that it resumes.

    Gives per pair the `noise` seed, `latents` (4, 32, 32), share of `objects` (1, 32, 32) and token `ids`.
    """
    parts = []
    for first in tqdm(range(0, captions, part), desc="pairs", unit="part", mininterval=5):
        file = Path(folder) / "pairs" / f"{first:06d}.safetensors"
        if not file.exists():
            rng = np.random.default_rng([seed, first])
            groups = [_same_caption(rng, pictures) for _ in range(min(part, captions - first))]
            drawn = draw_pictures([scene for _, scenes in groups for scene in scenes])
            latents = encode(vae, drawn, np.arange(len(drawn)))
            noise = torch.arange(len(drawn)) + first * pictures
            order = [
                i + linear_sum_assignment(-(latents[i:j].flatten(1) @ pair_noise(noise[i:j]).flatten(1).T))[1]
                for i, j in pairwise(range(0, len(drawn) + 1, pictures))
            ]
            texts = [text for text, _ in groups]
            file.parent.mkdir(parents=True, exist_ok=True)
            made = {
                "ids": tokenize(tokenizer, texts).repeat_interleave(pictures, 0),
                "noise": noise[torch.from_numpy(np.concatenate(order))],
                "latents": latents.half().contiguous(),
                "objects": (255 * drawn.objects(np.arange(len(drawn)))).round().to(torch.uint8),
            }
            with publish_file(file) as new:
                save_file(made, new)
        parts.append(load_file(file))
    return {key: torch.cat([p[key] for p in parts]) for key in parts[0]}


@torch.no_grad()
def sampled_pairs(
    base: UNet2DConditionModel,
    data: Pictures,
    conditions: Conditions,
    folder: Path,
    n: int,
    steps: int = 6,
    seed: int = 11,
    part: int = 64,
) -> dict[str, Tensor]:
    """Noise paired with what the many-step model makes of it, for fresh captions, mostly partial.

    The same form as `matched_pairs`; `objects` is where an object stands in the scene that was described.
    """
    parts = []
    for first in tqdm(range(0, n, part), desc="samples", unit="part", mininterval=5):
        file = Path(folder) / "samples" / f"{first:06d}.safetensors"
        if not file.exists():
            rng = np.random.default_rng([seed, first])
            index = rng.integers(len(data), size=min(part, n - first))
            captions = data.captions(index, rng, partial=0.6)
            noise = torch.arange(first, first + len(index))
            made = {
                "ids": tokenize(conditions.tokenizer, captions),
                "noise": noise,
                "latents": sample(base, conditions(captions), pair_noise(noise), steps).half().contiguous(),
                "objects": (255 * data.objects(index)).round().to(torch.uint8),
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            with publish_file(file) as new:
                save_file(made, new)
        parts.append(load_file(file))
    return {key: torch.cat([p[key] for p in parts]) for key in parts[0]}


def _same_caption(rng: np.random.Generator, n: int) -> tuple[str, list[Scene]]:
    """A caption, mostly partial, and `n` scenes that it describes."""
    scene = sample_scene(rng)
    text, mentioned = caption(scene, rng, "train", full=rng.random() < 0.3)
    return text, [scene, *(sample_like(scene, mentioned, rng) for _ in range(n - 1))]


def pair_noise(seeds: Tensor) -> Tensor:
    """Unit noise (n, 4, 32, 32) of each pair, made again from its seed."""
    return torch.stack(
        [torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
    )


@contextmanager
def dropped_blocks(unet: UNet2DConditionModel, kept: Collection[str] = DEFAULT_BLOCKS) -> Iterator[None]:
    """Inside, what the transformer blocks add, but those `kept`, is left out at random (stochastic depth).

    A sample draws one rate between 0 and 1 for all its blocks, so that some samples have nearly all of them
    and some have hardly any but the kept ones: these learn to do the work that shallow blocks would do.
    """
    rates: dict[str, Tensor] = {}

    def draw(module: nn.Module, args: tuple) -> None:
        rates["rate"] = torch.rand(len(args[0]), 1, 1, 1)

    def drop(module: nn.Module, args: tuple, output: tuple[Tensor]) -> tuple[Tensor]:
        keep = (torch.rand_like(rates["rate"]) >= rates["rate"]).to(output[0].dtype)
        return (torch.lerp(args[0].to(output[0].dtype), output[0], keep),)

    paths = {block_path(name) for name in kept}
    with ExitStack() as stack:
        stack.callback(unet.register_forward_pre_hook(draw).remove)
        for path, module in unet.named_modules():
            if isinstance(module, Transformer2DModel) and path not in paths:
                stack.callback(module.register_forward_hook(drop).remove)
        yield


def finish(
    name: str,
    start: UNet2DConditionModel,
    data: Pictures,
    latents: Tensor,
    conditions: Conditions,
    pairs: dict[str, Tensor],
    folder: Path,
    plan: Plan,
    batch: int = 32,
) -> UNet2DConditionModel:
    """Train `start` at the four timesteps alone, with shallow blocks dropped at random.

    At t=999, from pure noise: absolute error (its optimum is a median, which keeps edges sharp) to the
    picture that the noise is paired with. At the later steps: the ordinary loss on real pictures.
    """
    unet = make_unet()
    unet.load_state_dict(start.state_dict())
    unet.set_attn_processor(AttnProcessor())
    diffusion, first = Diffusion(), batch // 2

    def loss(step: int, rng: np.random.Generator, progress: float) -> Tensor:
        own = rng.integers(len(pairs["ids"]), size=first)
        index = rng.integers(len(data), size=batch - first)
        with torch.no_grad():
            a = conditions.text(pairs["ids"][own])
            b = conditions.dropped(data.captions(index, rng, partial=0.5), rng)
        condition = (torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]]))
        x0 = torch.cat([pairs["latents"][own].float(), latents[index].float()])
        eps = torch.cat([pair_noise(pairs["noise"][own]), torch.randn(len(index), 4, 32, 32)])
        late = torch.from_numpy(rng.choice(TURBO_STEPS[1:], size=len(index)))
        t = torch.cat([torch.full((first,), 999), late])
        # The sampler starts from noise alone, without the trace of x0 that the schedule leaves at t=999.
        x_t = torch.where((t == 999).view(-1, 1, 1, 1), eps, diffusion.noised(x0, eps, t))
        v = predict(unet, x_t, t, condition)
        weight = 1 + OBJECT_WEIGHT * torch.cat([pairs["objects"][own].float() / 255, data.objects(index)])
        sharp = (weight[:first] * (diffusion.clean(x_t, v, t) - x0)[:first].abs()).mean()
        later = (weight[first:] * (v - diffusion.velocity(x0, eps, t))[first:].square()).mean()
        return sharp + later

    with dropped_blocks(unet):
        train(name, unet, loss, plan, folder)
    return unet.eval().requires_grad_(False)
