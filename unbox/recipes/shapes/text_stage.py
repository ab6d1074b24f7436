"""The two CLIP text encoders and their tokenizer.

SDXL's encoders come pretrained on images. Ours are pretrained on the world's captions: a small reader,
thrown away
afterwards, must tell from their penultimate states, by attention as the UNet reads them, what stands in
each of
8x8 cells, background and light. The pooled vector must tell the arrangement alone and is kept small under
noise, so that what a caption says reaches the UNet through its attention blocks. No part of the UNet is ever
supervised so.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import CLIPTokenizer

from activation_store.files import publish_folder
from unbox.models.bf16_support import bf16_products
from unbox.recipes.shapes.networks import CONTEXT, WIDTHS, TextEncoders, make_tokenizer, tokenize
from unbox.recipes.shapes.world import NAMES, layout, pictures, targets
from unbox.shapes import FACTORS
from unbox.shapes.scene_table import SceneTable
from unbox.training.loop import Step, TrainingPlan, Turn, load_trained, train
from unbox.training.optimizers import muon
from unbox.training.roles import Role

#: What each cell tells of its object, and what is told of the scene as a whole.
CELL, SCENE = ("shape", "colour", "texture", "size"), ("background", "light")
#: Deviation of the noise under which the pooled vector is read.
POOLED_NOISE = 1.0


def kept_tokenizer(folder: Path, captions: list[str]) -> CLIPTokenizer:
    """Kept in the folder: learned again it may number words otherwise than the encoders know them."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with publish_folder(folder) as new:
            make_tokenizer(captions).save_pretrained(new)
    return CLIPTokenizer.from_pretrained(folder)


def token_ids(
    tokenizer: CLIPTokenizer, captions: list[str], device: torch.device, chunk: int = 20_000
) -> Tensor:
    """(n, 77) int16 on the device."""
    parts = [
        tokenize(tokenizer, captions[i : i + chunk]).to(torch.int16) for i in range(0, len(captions), chunk)
    ]
    return torch.cat(parts).to(device)


class CaptionReader(nn.Module):
    """What a UNet would want to know: 65 queries read the context, a linear map reads the pooled vector."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(65, 128) * 0.1)
        self.first, self.second = (
            nn.MultiheadAttention(128, 2, kdim=CONTEXT, vdim=CONTEXT, batch_first=True) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(128) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128)) for _ in range(2)
        )
        self.cells = nn.ModuleDict({name: nn.Linear(128, len(FACTORS[name])) for name in CELL})
        self.scene = nn.ModuleDict({name: nn.Linear(128, len(FACTORS[name])) for name in SCENE})
        self.covered = nn.Linear(128, 1)
        self.relation = nn.Linear(WIDTHS[1], len(FACTORS["relation"]))

    def forward(self, context: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        read = self.queries.expand(len(context), -1, -1)
        for attention, norm, mlp in zip((self.first, self.second), self.norms, self.mlps, strict=True):
            read = read + attention(read, context, context, need_weights=False)[0]
            read = read + mlp(norm(read))
        cells, whole = read[:, :64], read[:, 64]
        result = {name: head(cells) for name, head in self.cells.items()}
        result |= {name: head(whole) for name, head in self.scene.items()}
        return result | {"covered": self.covered(cells)[..., 0], "relation": self.relation(pooled)}


@dataclass(frozen=True)
class _Labels:
    """On the device: layout (n, 64) int8, heads (n, heads) int64 with -100 where there is nothing to tell."""

    layout: Tensor
    heads: Tensor


@torch.no_grad()
def _labels(table: SceneTable, device: torch.device) -> _Labels:
    cells = torch.cat([layout(covered).to(torch.int8) for _, covered in pictures(table, device)])
    return _Labels(cells, torch.from_numpy(targets(table)).to(device))


def _loss(
    told: dict[str, Tensor], labels: _Labels, scene: Tensor, mentioned: Tensor, pooled: Tensor
) -> Tensor:
    """Cross-entropy of what captions mention, as means over what there is to tell."""
    slots, heads = labels.layout[scene].long(), labels.heads[scene]
    heads = torch.where(mentioned, heads, -100)
    place = mentioned[:, NAMES.index("0.position")] | mentioned[:, NAMES.index("relation")]
    covered = F.binary_cross_entropy_with_logits(
        told["covered"].float(), (slots >= 0).float(), reduction="none"
    )
    total = (covered * place[:, None]).mean()
    for name in CELL:
        both = torch.stack([heads[:, NAMES.index(f"{slot}.{name}")] for slot in (0, 1)], 1)
        wanted = torch.where(slots >= 0, both.gather(1, slots.clamp(min=0)), -100)
        total = (
            total + F.cross_entropy(told[name].float().flatten(0, 1), wanted.flatten(), ignore_index=-100) / 2
        )
    for name in SCENE:
        total = (
            total + F.cross_entropy(told[name].float(), heads[:, NAMES.index(name)], ignore_index=-100) / 2
        )
    relation = F.cross_entropy(told["relation"].float(), labels.heads[scene][:, NAMES.index("relation")])
    return total + relation / 4 + 0.01 * pooled.float().square().mean()


def train_text(
    folder: Path,
    plan: TrainingPlan,
    accelerator: Accelerator,
    tokenizer: CLIPTokenizer,
    table: SceneTable,
    ids: Tensor,
    mentioned: Tensor,
    batch: int,
    rate: float,
    start: Path | None = None,
) -> nn.ModuleDict:
    """`text` (a `TextEncoders`) and its `reader`, from nothing or from the finished stage in `start`.
    Token ids (m, 77) and what is mentioned (m, heads) are those of the table's captions, set after set, on
    the device."""
    torch.manual_seed(plan.seed)
    both, device = (
        nn.ModuleDict({"text": TextEncoders(tokenizer), "reader": CaptionReader()}),
        accelerator.device,
    )
    if start is not None:
        load_trained({"text": both}, start)
    labels = _labels(table, device)

    def loss(step: Step) -> Tensor:
        index = torch.randint(len(ids), (batch,), generator=step.generator, device=device)
        context, pooled = both["text"](ids[index].long())
        noise = torch.randn(pooled.shape, generator=step.generator, device=device)
        told = both["reader"](context, pooled.float() + POOLED_NOISE * noise)
        return _loss(told, labels, index % len(table), mentioned[index], pooled)

    train({"text": Role(both, muon, rate, ema=0.995)}, [Turn("text", loss)], plan, folder, accelerator)
    both.eval().requires_grad_(False)
    return both


@torch.no_grad()
def read_right(
    both: nn.ModuleDict, ids: Tensor, table: SceneTable, mentioned: np.ndarray
) -> dict[str, float]:
    """Share of mentioned factors that the reader tells right, by cells of the true layout."""
    device = ids.device
    labels = _labels(table, device)
    with bf16_products(device):
        told = both["reader"](*both["text"](ids.long()))
    said = torch.from_numpy(mentioned).to(device)
    result = {}
    for name in CELL:
        heads = torch.stack(
            [torch.where(said, labels.heads, -100)[:, NAMES.index(f"{s}.{name}")] for s in (0, 1)], 1
        )
        slots = labels.layout.long()
        wanted = torch.where(slots >= 0, heads.gather(1, slots.clamp(min=0)), -100)
        result[name] = float((told[name].argmax(-1) == wanted)[wanted >= 0].float().mean())
    for name in SCENE:
        wanted = torch.where(said, labels.heads, -100)[:, NAMES.index(name)]
        result[name] = float((told[name].argmax(-1) == wanted)[wanted >= 0].float().mean())
    return result
