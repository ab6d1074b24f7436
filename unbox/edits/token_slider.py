"""Sliders on the text's tokens: a direction is added to the embeddings of some tokens, with a strength for
each step.

As SAEdit does (arXiv 2510.05081): what is moved is what the UNet reads of a token, not the picture, so that a
word keeps its object. The strength over steps there is min(e^(t omega) - 1, tau), t from 0 to 1
(`growing_strength`). A direction is the difference of two prompts at a word (`token_direction`), or a feature
of an SAE of a text encoder's layer (`sae.W_dec[f]`; of the last layer that the UNet reads).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Len
from torch import Tensor

from unbox.edit import Branch
from unbox.edit_values import Vector
from unbox.errors import FieldError, UnboxError
from unbox.models import Model
from unbox.models.clock import clock
from unbox.models.hooks import Hookable
from unbox.models.token_places import token_places
from unbox.validation import Index, Real, Several, Some, Steps, Text, checked, validated


@validated
class TokenSlider:
    """`strength` of a direction at some tokens of the prompt; for `generate(edits=...)` or
    `with slider.attach(model):`."""

    direction: Vector
    """(width,) of what the UNet reads of a token (both encoders', one behind the other), or of `encoder`'s
    own part of it."""
    tokens: Some[Index]
    """Places of the tokens, the beginning's being 0: `places_of_word(model, prompt, word)`."""
    strength: Annotated[Several[Real], Len(1)] = (1.0,)
    """One, or one for each step; the last holds on."""
    encoder: Literal[1, 2] | None = None
    """1 or 2: the text encoder that the direction is of; None: both."""
    branch: Branch = "cond"

    def __post_init__(self) -> None:
        if self.branch == "contrast":
            raise FieldError("", "branch", self.branch, "should be one of 'both', 'cond' or 'uncond'")

    @contextmanager
    def attach(self, model: Hookable, rows: Sequence[int] | None = None) -> Iterator[None]:
        """On for the images `rows` (None: all) until the context ends. Raises UnboxError for a direction of
        another width and, when the UNet is called, for tokens beyond the text's."""
        images = None if rows is None else frozenset(int(row) for row in rows)
        with ExitStack() as stack:
            now = stack.enter_context(clock(model))

            def slide(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                text: Tensor = kwargs["encoder_hidden_states"] if len(args) < 3 else args[2]
                strength = self.strength[min(now.step, len(self.strength) - 1)]
                owners = zip(now.branches, now.samples.tolist(), strict=True)
                acting = [
                    row
                    for row, (branch, image) in enumerate(owners)
                    if self.branch in ("both", branch) and (images is None or image in images)
                ]
                if not acting or not strength:
                    return None
                if wrong := next((token for token in self.tokens if token >= text.shape[1]), None):
                    raise FieldError("TokenSlider", "tokens", wrong, f"should be under {text.shape[1]}")
                moved = text.clone()
                place = torch.tensor(acting, device=text.device)[:, None]
                own = torch.tensor(self.tokens, device=text.device)
                moved[place, own] += strength * self._placed(text.shape[-1]).to(text)
                if len(args) < 3:
                    return args, {**kwargs, "encoder_hidden_states": moved}
                return (*args[:2], moved, *args[3:]), kwargs

            for pipeline in model.pipelines:
                hook = pipeline.unet.register_forward_pre_hook(slide, with_kwargs=True)
                stack.callback(hook.remove)
            yield

    def _placed(self, width: int) -> Tensor:
        """(width,) the direction where its encoder's part of a token's embedding is."""
        vector = torch.tensor(self.direction)
        if len(vector) > width or (self.encoder is None and len(vector) != width):
            rule = f"should have {width} numbers, as the UNet reads of a token, or name its encoder"
            raise FieldError("TokenSlider", "direction", f"{len(vector)} numbers", rule)
        whole = torch.zeros(width)
        start = width - len(vector) if self.encoder == 2 else 0
        whole[start : start + len(vector)] = vector
        return whole


def growing_strength(omega: float, tau: float, steps: int) -> tuple[float, ...]:
    """SAEdit's strength at each of `steps` steps: min(e^(t omega) - 1, tau), t from 0 at the first step to 1
    at the last."""
    door = "growing_strength"
    omega, tau = checked(Real, "omega", omega, door), checked(Real, "tau", tau, door)
    steps = checked(Steps, "steps", steps, door)
    times = np.linspace(0, 1, steps) if steps > 1 else np.ones(1)
    return tuple(min(math.expm1(min(t * omega, 700.0)), tau) for t in times.tolist())


def places_of_word(model: Model, prompt: str, word: str) -> tuple[int, ...]:
    """Where a word's tokens are in a prompt, as the UNet reads it. Raises UnboxError where they are not."""
    door = "places_of_word"
    prompt, word = checked(Text, "prompt", prompt, door), checked(Text, "word", word, door)
    found = token_places(model.pipeline.tokenizer or model.pipeline.tokenizer_2, prompt, word)
    if not found:
        raise UnboxError(f"'{word}' is not in '{prompt}', or beyond the tokens that are read")
    return tuple(found)


@torch.no_grad()
def token_direction(model: Model, having: str, lacking: str, word: str) -> np.ndarray:
    """(width,) how a word's embedding differs between two prompts that both have it: "an old man" and
    "a man", of "man"; over several tokens the mean."""
    parts = []
    for prompt in (having, lacking):
        text = model.pipeline.encode_prompt(prompt, device=model.device, do_classifier_free_guidance=False)[0]
        parts.append(text[0, list(places_of_word(model, prompt, word))].float().mean(0))
    difference: np.ndarray = (parts[0] - parts[1]).cpu().numpy()
    return difference
