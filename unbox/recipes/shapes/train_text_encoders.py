"""The two CLIP text encoders of the Shapes models, and their tokenizer.

SDXL's encoders come pretrained on images. Ours are pretrained on the world's captions: small readers,
thrown away afterwards, must tell from the encoders' outputs what stands in each of 8x8 cells (from the
penultimate states, by attention, as the UNet reads them) and every factor (from the pooled vector).
Only the text encoders are supervised this way, never the UNet.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from unbox.recipes.shapes.train_detector import targets
from unbox.recipes.shapes.training_pictures import Pictures
from unbox.recipes.training_loop import StagePlan, train
from unbox.shapes import FACTORS, prompts
from unbox.shapes.detector import HEADS

LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
PLAN = StagePlan(steps=800, rate=2e-3, warmup=40, ema=0.99, decay_from=0.3)
PARTIAL = 0.5
EMPTY = 0.03


def make_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding learned on the world's own captions, in CLIP's form; most words are one token."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator((p.text for p in prompts(4000, seed=7, full=False)), trainer)
    learned: dict[str, int] = bpe.get_vocab()
    # Every byte must have its word-final form too, so that no text is unknown.
    words = sorted(learned, key=lambda word: learned[word])
    words += [c + "</w>" for c in alphabet if c + "</w>" not in learned] + [START, END]
    written: list[Any] = json.loads(bpe.to_str())["model"]["merges"]
    merges: list[Any] = [tuple(m if isinstance(m, list) else m.split(" ")) for m in written]
    vocab = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def _config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=4,
        num_attention_heads=width // 32,
        max_position_embeddings=LENGTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


class TextPair(nn.Module):
    """Both encoders: context (B, 32, 96+128) from their penultimate states, pooled (B, 128)."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.one = CLIPTextModel(_config(tokenizer, 96))
        self.two = CLIPTextModelWithProjection(_config(tokenizer, 128))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        one = self.one(ids, output_hidden_states=True)
        two = self.two(ids, output_hidden_states=True)
        return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), two.text_embeds


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids (B, 32), padded and cut as the pipeline does."""
    return tokenizer(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


#: What each cell tells of its object, and what the pooled vector tells of the scene: no positions.
_CELL = ("shape", "colour", "texture", "size")
_POOLED = tuple(name for name in HEADS if not name.endswith("position"))


class Reader(nn.Module):
    """What a UNet would want to know: 64 queries read the context, a linear map reads the pooled vector."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(64, 128) * 0.1)
        self.attention = nn.MultiheadAttention(128, 2, kdim=224, vdim=224, batch_first=True)
        self.norm = nn.LayerNorm(128)
        self.mlp = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128))
        self.cells = nn.ModuleDict({name: nn.Linear(128, len(FACTORS[name])) for name in _CELL})
        self.covered = nn.Linear(128, 1)
        self.sizes = [len(HEADS[name]) for name in _POOLED]
        self.pooled = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, sum(self.sizes)))

    def forward(self, context: Tensor, pooled: Tensor) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        queries = self.queries.expand(len(context), -1, -1)
        read = queries + self.attention(queries, context, context, need_weights=False)[0]
        read = read + self.mlp(self.norm(read))
        cells = {name: head(read) for name, head in self.cells.items()}
        return self.covered(read)[..., 0], cells, list(self.pooled(pooled).split(self.sizes, -1))


def train_text(
    data: Pictures, tokenizer: CLIPTokenizer, folder: Path, plan: StagePlan = PLAN, batch: int = 96
) -> TextPair:
    torch.manual_seed(plan.seed)
    both = nn.ModuleDict({"text": TextPair(tokenizer), "reader": Reader()})
    right = targets(data.scenes)
    cell_labels = {name: torch.stack([right[f"0.{name}"], right[f"1.{name}"]], 1) for name in _CELL}

    def loss(step: int, rng: np.random.Generator, progress: float) -> Tensor:
        index = rng.integers(len(data), size=batch)
        captions = data.captions(index, rng, PARTIAL)
        with torch.autocast("cpu", torch.bfloat16):
            covered, cells, pooled = both["reader"](*both["text"](tokenize(tokenizer, captions)))
        slots = torch.from_numpy(data.layout[index]).flatten(1).long()
        occupied = slots >= 0
        total = F.binary_cross_entropy_with_logits(covered.float(), occupied.float())
        for name, logits in cells.items():
            target = cell_labels[name][index].gather(1, slots.clamp(min=0))
            total = total + F.cross_entropy(logits[occupied].float(), target[occupied]) / len(cells)
        for name, logits in zip(_POOLED, pooled, strict=True):
            target = right[name][index]
            if (target >= 0).any():
                total = total + F.cross_entropy(logits.float(), target, ignore_index=-100) / len(pooled)
        return total

    train("text", both, loss, plan, folder)
    text = both["text"]
    assert isinstance(text, TextPair)
    return text.eval().requires_grad_(False)
