"""Heat maps of words: how much the places of a picture attend to a word's tokens, from recorded maps.

As DAAM does (Tang et al. 2023): cross-attention of all blocks, layers, heads and steps, enlarged to one size
and averaged; here of the steps and branch that are asked for.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce

from unbox.capture.tape import Tape
from unbox.errors import UnboxError
from unbox.models import Model
from unbox.models.token_places import token_places
from unbox.validation import Side, Text, checked


def word_heatmap(
    tape: Tape,
    model: Model,
    prompt: str,
    word: str,
    *,
    sample: int = 0,
    blocks: Sequence[str] = (),
    branch: str = "cond",
    height: int | None = None,
    width: int | None = None,
) -> np.ndarray:
    """(height, width) float32: the share of attention that places give to a word, summed over its tokens.

    tape: of `record(model, blocks, ("cross",))` around a run of `prompt`; `sample`: the image's number on
    it. `blocks`: of those recorded; none: all. Without a size that of the finest block's grid; larger maps
    are interpolated. Raises UnboxError for a word that the prompt does not have, and for what was not
    recorded.
    """
    word, prompt = (
        checked(Text, "word", word, "word_heatmap"),
        checked(Text, "prompt", prompt, "word_heatmap"),
    )
    tokenizer = model.pipeline.tokenizer or model.pipeline.tokenizer_2
    keys = token_places(tokenizer, prompt, word)
    if not keys:
        raise UnboxError(f"'{word}' is not in '{prompt}', or beyond the tokens that are read")
    if not 0 <= sample < len(tape):
        raise UnboxError(f"the tape has {len(tape)} images; there is no image {sample}")
    maps = []
    for block in blocks or tape.blocks:
        recorded = tape.read(block, "cross", branch)[sample]
        of_word = recorded[..., keys].float().sum(-1).cpu()
        maps.append(reduce(of_word, "step layer head y x -> y x", "mean"))
    finest = max(m.shape[0] for m in maps), max(m.shape[1] for m in maps)
    size = [
        own if given is None else checked(Side, name, given, "word_heatmap")
        for name, given, own in (("height", height, finest[0]), ("width", width, finest[1]))
    ]
    grown = [F.interpolate(m[None, None], size, mode="bilinear", align_corners=False)[0, 0] for m in maps]
    found: np.ndarray = torch.stack(grown).mean(0).numpy()
    return found
