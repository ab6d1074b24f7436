"""NaN and infinite numbers of a run, found without a look at the device in every step.

Each UNet forward leaves flags on the device, a number a row; they are read once, when the denoising loop is
over, and the first that is not finite names its step, images and edits.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from unbox.edit import Edits
from unbox.errors import UnboxError

#: Forwards after which flags are read though no loop has ended (a user's own loop around the UNet).
MOST = 1000
#: Edits and images that a message names.
NAMED = 4


class NotFiniteError(UnboxError):
    """A run computed NaN or infinite numbers."""

    def __init__(self, message: str, images: tuple[int, ...] | None, reason: str) -> None:
        super().__init__(message)
        self.images = images
        """Places of the bad images in the call; None where they are not known."""
        self.reason = reason
        """What is not finite and in which type, without the images."""


@dataclass(frozen=True)
class ForwardFlags:
    """Whether what went into a UNet forward and what came out was finite, for each row."""

    step: int
    samples: np.ndarray
    finite: torch.Tensor
    """(2, rows) bool on the device: of the latents and of the prediction."""


def finite_rows(x: torch.Tensor) -> torch.Tensor:
    """(rows,) bool on the device: whether all of a row is finite."""
    return torch.isfinite(x.detach()).flatten(1).all(1)


class FiniteCheck:
    """The flags of a clock's runs, and the edits that are on."""

    def __init__(self) -> None:
        self.settings = ""
        """What else decides the numbers (guidance, type), for the message."""
        self._flags: list[ForwardFlags] = []
        self._edits: list[tuple[frozenset[int] | None, Edits]] = []

    @contextmanager
    def edited(self, images: frozenset[int] | None, edits: Edits) -> Iterator[None]:
        """Say which edits act on which images (None: all) until the context ends."""
        self._edits.append((images, edits))
        try:
            yield
            self.look()
        finally:
            self._edits.pop()

    def note(self, step: int, samples: np.ndarray, latents: torch.Tensor, prediction: torch.Tensor) -> None:
        """Keep the flags of a forward, (rows, ...) each."""
        flags = torch.stack([finite_rows(latents), finite_rows(prediction)])
        self._flags.append(ForwardFlags(step, samples, flags))
        if len(self._flags) >= MOST:
            self.look()

    def drop(self) -> None:
        """Forget the flags of a run that did not end well."""
        self._flags.clear()

    def look(self) -> None:
        """Read the flags that were kept. Raises NotFiniteError naming the first step that was not
        finite, and its images."""
        flags, self._flags = self._flags, []
        if not flags:
            return
        found = torch.cat([each.finite.to(flags[0].finite.device) for each in flags], dim=1).cpu().numpy()
        if found.all():
            return
        ends = np.cumsum([len(each.samples) for each in flags])
        for each, of_step in zip(flags, np.split(found, ends[:-1], axis=1), strict=True):
            for finite, what in zip(of_step, ("the latents that enter", "the prediction of"), strict=True):
                if not finite.all():
                    raise self._error(f"{what} step {each.step}", each.samples[~finite])

    def check(self, what: str, x: torch.Tensor, samples: Sequence[int] | None, advice: str = "") -> None:
        """Raise NotFiniteError where a row of `x` is not finite; `samples`: the image of each, if known."""
        finite = finite_rows(x).cpu().numpy()
        if not finite.all():
            images = None if samples is None else np.asarray(samples)[~finite]
            raise self._error(what, images, advice)

    def _error(self, what: str, images: np.ndarray | None, advice: str = "") -> NotFiniteError:
        bad = None if images is None else sorted(set(images.tolist()))
        where = "" if bad is None else f" of image {_listed(bad)}"
        acting = [
            edit.summary
            for chosen, edits in self._edits
            if bad is None or chosen is None or chosen & set(bad)
            for edit in edits
        ]
        edits = f"with the edit {_listed(acting)}" if acting else "without edits"
        advice = advice or "take smaller values or less guidance, or a wider type (--dtype float32)"
        found = f"{what}{where} {_are(what)} NaN or infinite, {edits}{self.settings}"
        return NotFiniteError(
            f"{found}: no picture is made; {advice}",
            None if bad is None else tuple(bad),
            f"{what} {_are(what)} NaN or infinite{self.settings}",
        )


def _are(what: str) -> str:
    return "are" if what.startswith("the latents") else "is"


def _listed(values: Sequence[object]) -> str:
    more = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    return ", ".join(map(str, values[:NAMED])) + more
