"""What a Shapes UNet can do, measured on the device in seconds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTokenizer

from unbox.recipes.shapes.conditions import CaptionStates, Given
from unbox.recipes.shapes.growth import BLOCKS, block
from unbox.recipes.shapes.networks import LATENT, TextEncoders
from unbox.recipes.shapes.people import people
from unbox.recipes.shapes.sampling import decode, sample
from unbox.recipes.shapes.text_stage import token_ids
from unbox.recipes.shapes.world import NAMES, Captioned, CaptionJob, of_prompts, targets
from unbox.shapes import FACTORS, prompts
from unbox.shapes.factors import TABLE
from unbox.shapes.scene_table import sample_table

#: Reads pictures (B, 3, 128, 128) in 0..1: every head's logits.
Reads = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Exam:
    """Captions and what each asks for: heads (n, heads), -100 where nothing is asked; all on the device."""

    conditions: CaptionStates
    heads: Tensor
    texts: list[str]


@dataclass(frozen=True)
class Judged:
    """Everything that measuring needs besides the UNet."""

    vae: AutoencoderKL
    text: TextEncoders
    tokenizer: CLIPTokenizer
    reads: Reads
    device: torch.device

    def exam(self, texts: list[str], heads: np.ndarray) -> Exam:
        ids = token_ids(self.tokenizer, texts, self.device)
        return Exam(CaptionStates.of(self.text, ids), torch.from_numpy(heads).to(self.device), texts)


def exams(judged: Judged, n: int, seed: int = 100) -> dict[str, Exam]:
    """Held-out looks under: plain full captions, captions in held-out wordings (full and partial), people's
    own."""
    table, plain = of_prompts(prompts(n, seed, "heldout", True))
    result = {"full": judged.exam(plain.texts, targets(table))}
    job = CaptionJob(seed, n, 0, n, split="heldout", full=0.5, plain=0.0)
    free: Captioned = job.write()
    asked = np.where(free.mentioned, targets(sample_table(n, seed, "heldout")), -100)
    result["own wordings"] = judged.exam(free.texts, asked)
    typed = people()
    heads = np.full((len(typed), len(NAMES)), -100)
    for i, (_, known) in enumerate(typed):
        for head, value in known.items():
            heads[i, NAMES.index(head)] = FACTORS[head.split(".")[-1]].index(value)
    result["people"] = judged.exam([text for text, _ in typed], heads)
    return result


def pictures_of(
    judged: Judged,
    unet: UNet2DConditionModel,
    given: Given,
    steps: int,
    seed: int = 0,
    ancestral: bool = True,
    guidance: float = 1.0,
) -> Tensor:
    """(n, 3, 128, 128) in 0..1."""
    generator = torch.Generator(judged.device).manual_seed(seed)
    eps = torch.randn(len(given.context), 4, LATENT, LATENT, generator=generator, device=judged.device)
    latents = sample(unet, given, eps, steps, generator if ancestral and steps > 1 else None, guidance)
    return decode(judged.vae, latents)


def readings(judged: Judged, pictures: Tensor) -> Tensor:
    """The likeliest value of each head, (n, heads); of a picture of one object nothing for the second."""
    told = [judged.reads(part) for part in pictures.split(512)]
    best = torch.stack([torch.cat([t[name] for t in told]).argmax(-1) for name in NAMES], 1)
    alone = best[:, NAMES.index("relation")] == 0
    second = torch.tensor([name.startswith("1.") for name in NAMES], device=best.device)
    return torch.where(alone[:, None] & second, -1, best)


def accuracy(read: Tensor, asked: Tensor) -> dict[str, float]:
    """Share of what is asked that is read, per factor and over `all`."""
    asks, right = asked >= 0, read == asked
    result = {}
    for factor in FACTORS:
        columns = [i for i, name in enumerate(NAMES) if name.split(".")[-1] == factor]
        count = asks[:, columns].sum()
        result[factor] = float((right & asks)[:, columns].sum() / count.clamp(min=1))
    return result | {"all": float((right & asks).sum() / asks.sum())}


def said_exam(judged: Judged, n: int, only: tuple[str, ...], seed: int = 101) -> Exam:
    """Captions of training wordings that mention only some factors, all of those."""
    job = CaptionJob(seed, n, 0, n, full=1.0, plain=0.0, only=only)
    written = job.write()
    asked = np.where(written.mentioned, targets(sample_table(n, seed)), -100)
    return judged.exam(written.texts, asked)


@torch.no_grad()
def quick(judged: Judged, unet: UNet2DConditionModel, exam: Exam) -> dict[str, float]:
    """Accuracy at one step: for deciding when blocks come."""
    return accuracy(readings(judged, pictures_of(judged, unet, exam.conditions.plain(), 1)), exam.heads)


def sharpness(pictures: Tensor) -> float:
    """Mean size of the discrete Laplacian: what blur takes away first."""
    kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]], device=pictures.device)
    return float(F.conv2d(pictures.flatten(0, 1)[:, None], kernel[None, None]).abs().mean())


@torch.no_grad()
def ablations(
    judged: Judged, unet: UNet2DConditionModel, exam: Exam, steps: int = 1
) -> dict[str, dict[str, float]]:
    """Of each block: root mean square change of pictures without its update, and the share of readings, per
    factor, that change."""
    given = exam.conditions.plain()
    before = pictures_of(judged, unet, given, steps)
    read = torch.where(exam.heads >= 0, readings(judged, before), -100)
    result = {}
    for name in BLOCKS:
        module = block(unet, name)
        absent = "forward" in module.__dict__
        if not absent:
            module.forward = lambda hidden_states, *_, **__: (hidden_states,)
        after = pictures_of(judged, unet, given, steps)
        if not absent:
            del module.__dict__["forward"]
        same = accuracy(readings(judged, after), read)
        result[name] = {"change": float((after - before).square().mean().sqrt())}
        result[name] |= {factor: 1 - share for factor, share in same.items()}
    return result


def open_captions(factor: str, n: int, seed: int = 7) -> list[str]:
    """`n` plain captions of one object each that leave one factor out and say all others."""
    table = sample_table(n, seed, "heldout", pairs=0.0)
    texts = []
    for i in range(n):
        known = {
            k: TABLE[k].wordings[v][0]
            for k, v in table.scene(i).factors().items()
            if k not in (factor, "relation")
        }
        words = [known.get(k, "") for k in ("size", "texture", "colour")] + [known.get("shape", "object")]
        text = " ".join(word for word in words if word)
        text = f"{'an' if text[0] in 'aeiou' else 'a'} {text} {known.get('position', '')}".strip()
        text += f" on a {known['background']} background" if "background" in known else ""
        texts.append(text + (f", {known['light']}" if "light" in known else ""))
    return texts


@torch.no_grad()
def openness(
    judged: Judged, unet: UNet2DConditionModel, steps: int, captions: int, each: int = 20
) -> dict[str, dict[str, float]]:
    """For each factor left open: how often two seeds of one caption differ (captions x each / 2 pairs), and
    what independent draws of equal chance would give."""
    result = {}
    for factor in FACTORS:
        if factor == "relation":
            continue
        texts = [text for text in open_captions(factor, captions) for _ in range(each)]
        exam = judged.exam(texts, np.zeros((len(texts), len(NAMES)), np.int64))
        pictures = pictures_of(judged, unet, exam.conditions.plain(), steps, seed=3)
        head = factor if factor in NAMES else f"0.{factor}"
        read = readings(judged, pictures)[:, NAMES.index(head)].view(-1, 2)
        result[factor] = {
            "differ": float((read[:, 0] != read[:, 1]).float().mean()),
            "independent": 1 - 1 / len(FACTORS[factor]),
        }
    return result


@torch.no_grad()
def micro(judged: Judged, unet: UNet2DConditionModel, exam: Exam, steps: int = 4) -> dict[str, float]:
    """What sizes and crops do: sharpness at smaller originals relative to the plain size; share of objects
    asked for in the middle that a crop by 32 pixels moves up, or left."""
    plain = exam.conditions.plain()

    def at(*sizes: int) -> Tensor:
        told = torch.tensor([sizes], dtype=torch.float32, device=judged.device).expand(len(plain.context), -1)
        return pictures_of(judged, unet, Given(plain.context, plain.pooled, told), steps)

    sharp = sharpness(at(128, 128, 0, 0, 128, 128))
    result = {
        f"sharpness at {side}": sharpness(at(side, side, 0, 0, 128, 128)) / sharp for side in (32, 64, 96)
    }
    column = NAMES.index("0.position")
    alone = exam.heads[:, NAMES.index("relation")] == 0
    middle = alone & (exam.heads[:, column] == FACTORS["position"].index("center"))
    for name, sizes in (("top", (32, 0)), ("left", (0, 32))):
        read = readings(judged, at(128, 128, *sizes, 128, 128))[middle, column]
        result[f"center to {name}"] = float((read == FACTORS["position"].index(name)).float().mean())
    return result
