"""Keep edited updates inside what was recorded of each channel, and of the whitened norm.

A norm alone is a weak guard: steered activations leave the range of single channels too (PER, arXiv
2606.31699). The limits are quantiles of recorded rows: of each channel, and of the norm after whitening,
which is large where an update combines channels as none did.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from pydantic import BeforeValidator, PlainValidator
from torch import Tensor

from activation_store import Rows
from unbox.edits.guard import Guard, Quantiles
from unbox.errors import FieldError
from unbox.memory_limit import require
from unbox.validation import Count, Seed, checked, validated


@dataclass(frozen=True, eq=False)
class ChannelLimits:
    """Lowest and highest value of each channel, (d,) float32."""

    low: Tensor
    high: Tensor


@dataclass(frozen=True, eq=False)
class WhitenedLimits:
    """Lowest and highest norm of whitened updates, W (u - mean)."""

    mean: Tensor
    """(d,)"""
    whitener: Tensor
    """(d, d), W transposed."""
    low: float
    high: float

    def norm(self, update: Tensor) -> Tensor:
        """(..., 1) of updates (..., d)."""
        return ((update - self.mean.to(update)) @ self.whitener.to(update)).norm(dim=-1, keepdim=True)


def _of(kind: type) -> PlainValidator:
    def rule(value: object) -> object:
        if not isinstance(value, Mapping) or not all(isinstance(each, kind) for each in value.values()):
            raise ValueError(f"should be {kind.__name__} by block")
        return dict(value)

    return PlainValidator(rule)


def _none(value: object) -> object:
    return {} if value is None else value


@validated
class ChannelGuard(Guard):
    """Limits by block: of the norm, as of `Guard`, of each channel, and of the whitened norm; `mode` is of
    all.

    `clip`: channels outside their limits are put at the nearer one; an update whose whitened norm is outside
    is scaled about the mean. `rescale`: the edit is made smaller, until no channel that was inside leaves its
    limits; the whitened norm is put back to what it was before the edit, inside its limits.
    """

    channels: Annotated[dict[str, ChannelLimits], _of(ChannelLimits), BeforeValidator(_none)] = field(
        default_factory=dict
    )
    """Block -> what `channel_limits` gives."""
    whitened: Annotated[dict[str, WhitenedLimits], _of(WhitenedLimits), BeforeValidator(_none)] = field(
        default_factory=dict
    )
    """Block -> what `whitened_limits` gives."""
    acted: dict[str, Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)
    """`BLOCK channels`, `BLOCK whitened` -> positions edited, and positions outside, counted on the
    device."""

    def delta(self, block: str, update: Tensor, delta: Tensor) -> Tensor:
        """The delta that keeps `update + delta` inside all limits; (images, y, x, d), zero where it was."""
        if (whitened := self.whitened.get(block)) is not None:
            delta = self._inside_whitened(block, whitened, update, delta)
        if (channels := self.channels.get(block)) is not None:
            delta = self._inside_channels(block, channels, update, delta)
        return Guard.delta(self, block, update, delta)

    def _inside_whitened(self, block: str, limits: WhitenedLimits, update: Tensor, delta: Tensor) -> Tensor:
        mean, moved = limits.mean.to(update), update + delta
        edited, norm = (delta != 0).any(-1, keepdim=True), limits.norm(moved)
        outside = edited & ((norm < limits.low) | (norm > limits.high))
        self._count(f"{block} whitened", edited, outside)
        wanted = limits.norm(update) if self.mode == "rescale" else norm
        factor = wanted.clamp(limits.low, limits.high) / norm.clamp(min=1e-12)
        touched = edited if self.mode == "rescale" else outside
        return torch.where(touched, mean + (moved - mean) * factor - update, delta)

    def _inside_channels(self, block: str, limits: ChannelLimits, update: Tensor, delta: Tensor) -> Tensor:
        low, high = limits.low.to(update), limits.high.to(update)
        edited, moved = delta != 0, update + delta
        outside = edited & ((moved < low) | (moved > high))
        positions = edited.any(-1, keepdim=True), outside.any(-1, keepdim=True)
        self._count(f"{block} channels", *positions)
        if self.mode == "clip":
            return torch.where(outside, moved.clamp(low, high) - update, delta)
        # Channels that were outside before the edit may stay where they were.
        low, high = torch.minimum(low, update), torch.maximum(high, update)
        room = torch.where(delta > 0, high - update, update - low)
        share = torch.where(edited, (room / delta.abs().clamp(min=1e-12)).clamp(max=1), 1)
        share = share.amin(-1, keepdim=True)
        return torch.where(positions[1], delta * share, delta)

    def _count(self, name: str, edited: Tensor, outside: Tensor) -> None:
        found = torch.stack([edited.sum(), outside.sum()])
        self.acted[name] = self.acted[name].to(found.device) + found if name in self.acted else found

    def report(self) -> dict[str, float]:
        """Share of edited positions that were outside: of the norm by block, `BLOCK channels` of any channel,
        `BLOCK whitened` of the whitened norm, so far."""
        numbers = {name: found.tolist() for name, found in self.acted.items()}
        return Guard.report(self) | {n: outside / max(edited, 1) for n, (edited, outside) in numbers.items()}


def channel_limits(rows: Rows, quantiles: tuple[float, float] = (0.001, 0.999)) -> ChannelLimits:
    """Quantiles of each channel from a store's statistics, the widest over its steps and branches.

    No row is read: within a quarter of an octave of the quantiles of the rows that were counted. Raises
    StoreError for a store of version 1, which has none.
    """
    shares = checked(Quantiles, "quantiles", quantiles, "channel_limits")
    low, high = (rows.moments.channel_quantile(share) for share in shares)
    axes = tuple(range(low.ndim - 1))
    return ChannelLimits(*(torch.from_numpy(x.astype(np.float32)) for x in (low.min(axes), high.max(axes))))


def whitened_limits(
    rows: Rows, quantiles: tuple[float, float] = (0.0, 0.999), count: int = 20_000, seed: int = 0
) -> WhitenedLimits:
    """Whitening by the covariance of `count` sampled rows, and quantiles of their whitened norms.

    A tenth of the mean variance is added to every direction's, so that directions in which rows hardly vary
    do not count without bound. Raises UnboxError for fewer rows than channels.
    """
    door = "whitened_limits"
    shares = checked(Quantiles, "quantiles", quantiles, door)
    count, seed = checked(Count, "count", count, door), checked(Seed, "seed", seed, door)
    some = np.asarray(rows.sample(min(count, len(rows)), seed), np.float64)
    width = some.shape[1]
    if len(some) <= width:
        raise FieldError(door, "count", len(some), f"should be more rows than channels, {width:,}")
    require(40 * width * width, f"the covariance of {width:,} channels", door)
    mean = some.mean(0)
    values, vectors = np.linalg.eigh(np.cov(some.T) + 0.1 * some.var(0).mean() * np.eye(width))
    whitener = (vectors / np.sqrt(values)) @ vectors.T
    low, high = np.quantile(np.linalg.norm((some - mean) @ whitener, axis=1), shares)
    about, by = (torch.from_numpy(each.astype(np.float32)) for each in (mean, whitener))
    return WhitenedLimits(about, by, float(low), float(high))
