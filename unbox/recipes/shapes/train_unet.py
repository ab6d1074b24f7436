"""The Shapes UNet: SDXL's topology at 16/64/128 channels, 6.2 M parameters, v-prediction on SDXL's schedule.

`train_base` makes the many-step model by the ordinary diffusion loss, with no other supervision
anywhere in the UNet; `train_turbo` finishes it for one to four steps.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTokenizer

from activation_store.files import publish_file
from unbox.recipes.shapes.train_text_encoders import EMPTY, TextPair, tokenize
from unbox.recipes.shapes.training_pictures import Pictures
from unbox.recipes.training_loop import StagePlan, train

BASE = StagePlan(steps=200_000, minutes=50, rate=3e-3, warmup=200, ema=0.999, decay_from=0.35)
TURBO = StagePlan(steps=200_000, minutes=15, rate=1e-3, warmup=100, ema=0.998, decay_from=0.3)
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


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel, condition: Condition, noise: Tensor, steps: int, guidance: float = 1.0
) -> Tensor:
    """Deterministic Euler samples (B, 4, 32, 32) from unit noise, guided where `guidance` is not 1."""
    scheduler = make_scheduler()
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        model_input = scheduler.scale_model_input(x, t)
        times = torch.full((len(x),), int(t))
        v = predict(unet, model_input, times, condition)
        if guidance != 1:
            nothing = (torch.zeros_like(condition[0]), torch.zeros_like(condition[1]))
            empty = predict(unet, model_input, times, nothing)
            v = empty + guidance * (v - empty)
        x = scheduler.step(v, t, x).prev_sample
    return x


def make_pairs(
    unet: UNet2DConditionModel,
    data: Pictures,
    conditions: Conditions,
    folder: Path,
    n: int,
    steps: int = 6,
    guidance: float = 1.0,
    batch: int = 64,
    seed: int = 11,
) -> dict[str, Tensor]:
    """(noise seed -> the base model's own sample) for fresh captions, kept in parts so that it resumes.

    Gives `noise` seeds (n,), `index` of scenes, `latents` (n, 4, 32, 32) and the captions' token `ids`.
    """
    parts, batch = [], min(batch, n)
    for part in tqdm(range(0, n, batch), desc="pairs", unit="batch", mininterval=5):
        file = Path(folder) / "pairs" / f"{part:06d}.safetensors"
        if not file.exists():
            rng = np.random.default_rng([seed, part])
            index = rng.integers(len(data), size=batch)
            captions = data.captions(index, rng, partial=0.6)
            noise = pair_noise(torch.arange(part, part + batch))
            x0 = sample(unet, conditions(captions), noise, steps, guidance)
            ids = tokenize(conditions.tokenizer, captions)
            file.parent.mkdir(parents=True, exist_ok=True)
            with publish_file(file) as new:
                save_file(
                    {
                        "ids": ids,
                        "latents": x0.half().contiguous(),
                        "noise": torch.arange(part, part + batch),
                    },
                    new,
                )
        parts.append(load_file(file))
    return {key: torch.cat([p[key] for p in parts]) for key in parts[0]}


def pair_noise(seeds: Tensor) -> Tensor:
    """Unit noise (n, 4, 32, 32) of each pair, made again from its seed."""
    return torch.stack(
        [torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
    )


def train_turbo(
    base: UNet2DConditionModel,
    data: Pictures,
    latents: Tensor,
    conditions: Conditions,
    pairs: dict[str, Tensor],
    folder: Path,
    plan: StagePlan = TURBO,
    batch: int = 32,
) -> UNet2DConditionModel:
    """The few-step finish, at the four timesteps alone.

    At t=999: absolute error (its optimum is a median, which keeps the edges of jittered objects sharp)
    to the base model's own sample from the same noise, or, for full captions, to a real picture.
    At the later steps: the ordinary loss on real pictures.
    """
    unet = make_unet()
    unet.load_state_dict(base.state_dict())
    unet.set_attn_processor(AttnProcessor())
    diffusion = Diffusion()
    shares = np.array([batch * 3 // 8, batch // 8, batch - batch * 3 // 8 - batch // 8])  # pairs, pure, later

    def loss(step: int, rng: np.random.Generator, progress: float) -> Tensor:
        own = rng.integers(len(pairs["ids"]), size=shares[0])
        index = rng.integers(len(data), size=shares[1] + shares[2])
        full = data.captions(index[: shares[1]], rng, partial=0.0)
        mixed = data.captions(index[shares[1] :], rng, partial=0.5)
        with torch.no_grad():
            a = conditions.text(pairs["ids"][own])
            b = conditions.dropped([*full, *mixed], rng)
        condition = (torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]]))
        x0 = torch.cat([pairs["latents"][own].float(), latents[index].float()])
        eps = torch.cat([pair_noise(pairs["noise"][own]), torch.randn(len(index), 4, 32, 32)])
        late = torch.from_numpy(rng.choice(TURBO_STEPS[1:], size=shares[2]))
        t = torch.cat([torch.full((int(shares[0] + shares[1]),), 999), late])
        # The sampler starts from noise alone, without the trace of x0 that the schedule leaves at t=999.
        x_t = torch.where((t == 999).view(-1, 1, 1, 1), eps, diffusion.noised(x0, eps, t))
        v = predict(unet, x_t, t, condition)
        weight = torch.cat([torch.ones(len(own), 1, 32, 32) * 2, 1 + OBJECT_WEIGHT * data.objects(index)])
        first = int(shares[0] + shares[1])
        sharp = (weight[:first] * (diffusion.clean(x_t, v, t) - x0)[:first].abs()).mean()
        later = (weight[first:] * (v - diffusion.velocity(x0, eps, t))[first:].square()).mean()
        return sharp + later

    train("unet-turbo", unet, loss, plan, folder)
    return unet.eval().requires_grad_(False)
