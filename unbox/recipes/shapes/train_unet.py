"""The Shapes UNet: SDXL's topology at 16/64/128 channels, 6.2 M parameters, v-prediction on SDXL's schedule.

`train_base` makes the many-step model by the ordinary diffusion loss, with no other supervision
anywhere in the UNet; `distill_turbo` finishes it for one to four steps.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTokenizer

from unbox.recipes.shapes.train_text_encoders import EMPTY, TextPair, tokenize
from unbox.recipes.shapes.training_pictures import Pictures
from unbox.recipes.training_loop import StagePlan, train

BASE = StagePlan(steps=200_000, minutes=50, rate=3e-3, warmup=200, ema=0.999, decay_from=0.35)
UNCONDITIONAL = 0.08
OBJECT_WEIGHT = 4.0
TURBO_STEPS = (999, 749, 499, 249)

Condition = tuple[Tensor, Tensor]


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(16, 64, 128),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=(1, 1, 2),  # diffusers' name for the number of heads
        norm_num_groups=8,
        cross_attention_dim=224,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=128 + 6 * 32,
    )


def make_scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


class Diffusion:
    """SDXL's noise schedule: x_t = alpha x0 + sigma eps, v = alpha eps - sigma x0."""

    def __init__(self) -> None:
        abar = make_scheduler().alphas_cumprod.float()
        self.alpha, self.sigma = abar.sqrt(), (1 - abar).sqrt()

    def noised(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        a, s = self._at(t)
        return a * x0 + s * eps

    def velocity(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        a, s = self._at(t)
        return a * eps - s * x0

    def clean(self, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The x0 that a velocity stands for."""
        a, s = self._at(t)
        return a * x_t - s * v

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.alpha[t].view(-1, 1, 1, 1), self.sigma[t].view(-1, 1, 1, 1)


def predict(unet: UNet2DConditionModel, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """Velocity (B, 4, 32, 32) in float32, computed in bfloat16."""
    context, pooled = condition
    sizes = torch.tensor([64.0, 64, 0, 0, 64, 64]).expand(len(x_t), -1)
    with torch.autocast("cpu", torch.bfloat16):
        v = unet(x_t, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
    return v.float()


class Conditions:
    """Captions to the UNet's conditioning; a share is unconditional (zeros, as SDXL's pipeline has it)."""

    def __init__(self, text: TextPair, tokenizer: CLIPTokenizer) -> None:
        self.text, self.tokenizer = text, tokenizer

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Condition:
        return self.text(tokenize(self.tokenizer, captions))

    def dropped(self, captions: list[str], rng: np.random.Generator) -> Condition:
        captions = [c if rng.random() >= EMPTY else "" for c in captions]
        context, pooled = self(captions)
        keep = torch.from_numpy(rng.random(len(captions)) >= UNCONDITIONAL).float()
        return context * keep[:, None, None], pooled * keep[:, None]


def draw_times(rng: np.random.Generator, n: int, progress: float) -> Tensor:
    """Timesteps that lean towards noise, where the caption decides; first mostly pure noise.

    Half of the rest is spent on the four steps of the few-step model.
    """
    pure = 0.65 if progress < 0.1 else 0.25
    spread = 999 * (1 - rng.random(n) ** 1.5)
    few = rng.choice(TURBO_STEPS[1:], size=n)
    t = np.where(rng.random(n) < 0.5, spread, few)
    return torch.from_numpy(np.where(rng.random(n) < pure, 999, t).astype(np.int64))


def train_base(
    data: Pictures,
    latents: Tensor,
    conditions: Conditions,
    folder: Path,
    plan: StagePlan = BASE,
    batch: int = 32,
) -> UNet2DConditionModel:
    """The many-step model: v-prediction, pixels of objects weighted, half of the captions partial."""
    torch.manual_seed(plan.seed)
    unet = make_unet()
    unet.set_attn_processor(AttnProcessor())  # its backward is faster than fused attention's on CPUs
    diffusion = Diffusion()

    def loss(step: int, rng: np.random.Generator, progress: float) -> Tensor:
        index = rng.integers(len(data), size=batch)
        condition = conditions.dropped(data.captions(index, rng, partial=0.5 if progress > 0.1 else 0.2), rng)
        x0, t = latents[index].float(), draw_times(rng, batch, progress)
        eps = torch.randn_like(x0)
        v = predict(unet, diffusion.noised(x0, eps, t), t, condition)
        weight = 1 + OBJECT_WEIGHT * data.objects(index)
        return (weight * (v - diffusion.velocity(x0, eps, t)).square()).mean() / weight.mean()

    train("unet-base", unet, loss, plan, folder)
    return unet.eval().requires_grad_(False)
