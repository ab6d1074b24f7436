"""Negative prompts of a batch: a text for some of its images, the empty text for others, none for the rest.

None and "" are not the same. Without a negative prompt SDXL's pipeline guides away from zeros
(`force_zeros_for_empty_prompt`), with "" from what the text encoders make of it; and a pipeline takes one of
both for a whole batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

#: What `encode_prompt` gives: text (images, tokens, width), that of the negative prompts, pooled (images,
#: width), that of the negative prompts; None without guidance.
Encoded = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]


@contextmanager
def negative_prompts(
    pipeline: DiffusionPipeline, negatives: Sequence[str | None]
) -> Iterator[dict[str, list[str]]]:
    """The pipeline's argument for these images' negative prompts, to be used inside, where each image without
    one gets what the pipeline gives for none."""
    absent = [negative is None for negative in negatives]
    if all(absent):
        yield {}
        return
    given = {"negative_prompt": [negative or "" for negative in negatives]}
    if not any(absent) or not pipeline.config.get("force_zeros_for_empty_prompt"):
        yield given
        return
    original = pipeline.encode_prompt

    @wraps(original)
    def encode_prompt(*args: object, **kwargs: object) -> Encoded:
        text, no_text, pooled, no_pooled = original(*args, **kwargs)
        return text, _zeroed(no_text, absent), pooled, _zeroed(no_pooled, absent)

    before = vars(pipeline).get("encode_prompt")  # of a recording around this
    pipeline.encode_prompt = encode_prompt
    try:
        yield given
    finally:
        if before is None:
            del pipeline.encode_prompt
        else:
            pipeline.encode_prompt = before


def _zeroed(encoded: torch.Tensor | None, rows: Sequence[bool]) -> torch.Tensor | None:
    if encoded is None:
        return None
    chosen = torch.tensor(rows, device=encoded.device).reshape(-1, *[1] * (encoded.ndim - 1))
    return encoded.masked_fill(chosen, 0)
