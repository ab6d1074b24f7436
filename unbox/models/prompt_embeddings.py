"""Prompts that are longer than the text encoders read, in chunks, and prompts with weights, as embeddings.

A chunk is what an encoder reads at once: a token for the beginning, 75 of the prompt (of SDXL's), one for the
end, and padding. The chunks' embeddings lie one after the other; the pooled one is the first chunk's, as in
most programs. A word of weight w has e + w (z - e), where z is its embedding and e that of an empty prompt at
its place (ComfyUI's rule). Without weights a prompt of one chunk is what the pipeline itself makes of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from unbox.errors import UnboxError
from unbox.models.prompt_weights import WeightedText, weighted_texts

#: Tokens and their weights.
Tokens = list[tuple[int, float]]
#: Chunks of a prompt that are taken at most: memory and time grow with them.
MOST_CHUNKS = 100


@dataclass(frozen=True)
class PromptReading:
    """How prompts are read: whether long ones in `chunks`, whether brackets are `weights`."""

    chunks: bool = False
    weights: bool = False

    def __bool__(self) -> bool:
        return self.chunks or self.weights

    def pieces(self, prompt: str) -> list[WeightedText]:
        """The prompt's texts with their weights."""
        return weighted_texts(prompt) if self.weights else [WeightedText(prompt, 1.0)]

    def text(self, prompt: str) -> str:
        """The prompt without the signs of its weights."""
        return "".join(piece.text for piece in self.pieces(prompt))

    def plain(self, pipeline: DiffusionPipeline, prompt: str | None) -> bool:
        """Whether the pipeline itself reads a prompt so: one chunk at most, and no weights."""
        if prompt is None:
            return True
        pieces = self.pieces(prompt)
        only = "".join(piece.text for piece in pieces)
        alike = only == prompt and all(piece.weight == 1 for piece in pieces)
        return alike and (not self.chunks or self.length(pipeline, prompt) == 1)

    def length(self, pipeline: DiffusionPipeline, prompt: str | None) -> int:
        """How many chunks a prompt has; of several encoders, the most."""
        if prompt is None or not self.chunks:
            return 1
        tokenizers = [tokenizer for tokenizer, _ in text_encoders(pipeline)]
        return max(len(self.token_chunks(tokenizer, prompt)) for tokenizer in tokenizers)

    def token_chunks(self, tokenizer: Any, prompt: str) -> list[Tokens]:
        """A prompt's tokens, as many to a chunk as an encoder reads beside its ends; one chunk unless
        they are asked for. Raises UnboxError for more than MOST_CHUNKS."""
        tokens: Tokens = []
        for text, weight in self.pieces(prompt):
            found = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
            tokens += [(token, weight) for token in found]
        size = tokenizer.model_max_length - 2
        chunks = [tokens[at : at + size] for at in range(0, len(tokens), size)] or [[]]
        if not self.chunks:
            return chunks[:1]
        if len(chunks) > MOST_CHUNKS:
            found = f"a prompt of {len(prompt):,} letters has {len(chunks)} chunks"
            raise UnboxError(f"{found}; at most {MOST_CHUNKS} are read")
        return chunks

    def encode(
        self, pipeline: DiffusionPipeline, prompts: Sequence[str], length: int
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (prompt, chunks * tokens, width) and pooled ones (prompt, width) of prompts.

        `length`: chunks of each; empty ones fill up those that have fewer.
        """
        columns, pooled = [], None
        for tokenizer, encoder in text_encoders(pipeline):
            chunks = [self.token_chunks(tokenizer, prompt) for prompt in prompts]
            rows = []
            for place in range(length):
                now = [own[place] if place < len(own) else [] for own in chunks]
                hidden, last = encoded_chunks(tokenizer, encoder, now)
                rows.append(_weighed(tokenizer, encoder, now, hidden))
                if place == 0 and last.ndim == 2:
                    pooled = last if pooled is None else pooled
            columns.append(torch.cat(rows, dim=1))
        if pooled is None:
            raise UnboxError(
                "this pipeline's text encoders give no pooled embedding, which SDXL's UNets read"
            )
        return torch.cat(columns, dim=-1), pooled

    def arguments(
        self,
        pipeline: DiffusionPipeline,
        prompts: Sequence[str],
        negatives: Sequence[str | None],
        guided: bool,
    ) -> dict[str, Tensor]:
        """The pipeline's arguments in the place of `prompt` and `negative_prompt`, for images whose prompts
        have equal lengths. An absent negative prompt gives zeros where the pipeline does so.
        """
        every = [*prompts, *(text for text in negatives if text is not None and guided)]
        length = max(self.length(pipeline, text) for text in every)
        with torch.no_grad():
            embeds, pooled = self.encode(pipeline, prompts, length)
            given = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
            if not guided:
                return given
            zeros = pipeline.config.force_zeros_for_empty_prompt
            others, no_pooled = self.encode(pipeline, [text or "" for text in negatives], length)
            for row, text in enumerate(negatives):
                if text is None and zeros:
                    others[row], no_pooled[row] = 0, 0
        return {**given, "negative_prompt_embeds": others, "negative_pooled_prompt_embeds": no_pooled}


def text_encoders(pipeline: DiffusionPipeline) -> list[tuple[Any, Any]]:
    """The pipeline's tokenizers and text encoders; a refiner has the second alone."""
    pairs = [(getattr(pipeline, f"tokenizer{end}", None), getattr(pipeline, f"text_encoder{end}", None))
             for end in ("", "_2")]  # fmt: skip
    return [(tokenizer, encoder) for tokenizer, encoder in pairs if tokenizer is not None]


def encoded_chunks(tokenizer: Any, encoder: Any, chunks: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """The last but one hidden states (chunk, token, width), and the encoder's first output."""
    from diffusers.utils.torch_utils import get_module_execution_device

    size = tokenizer.model_max_length
    ids = torch.full((len(chunks), size), tokenizer.pad_token_id)
    for row, chunk in enumerate(chunks):
        tokens = [tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id]
        ids[row, : len(tokens)] = torch.tensor(tokens)
    made = encoder(ids.to(get_module_execution_device(encoder)), output_hidden_states=True)
    return made.hidden_states[-2], made[0]


def _weighed(tokenizer: Any, encoder: Any, chunks: Sequence[Tokens], hidden: Tensor) -> Tensor:
    """Embeddings with the words that have a weight moved from those of an empty prompt by it."""
    weights = torch.ones(hidden.shape[:2])
    for row, chunk in enumerate(chunks):
        weights[row, 1 : 1 + len(chunk)] = torch.tensor([weight for _, weight in chunk])
    if bool((weights == 1).all()):
        return hidden
    empty, _ = encoded_chunks(tokenizer, encoder, [[]])
    weights = weights.to(hidden)[..., None]
    return torch.where(weights == 1, hidden, empty + weights * (hidden - empty))
