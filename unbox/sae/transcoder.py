"""Transcoders: sparse codes of one place's rows that reconstruct another's (arXiv 2406.11944).

    z = ReLU(TopK(W_enc (x - b_pre) + b_lat)),  y^ = z W_dec + b_out [+ W_skip (x - b_pre)]

x: rows of the source, the input of a block say; y: rows of the target, its update. With a skip (Paulo et al.,
arXiv 2501.18823) the linear part of the map needs no latents.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from activation_store.files import digest, publish_folder, write_json
from unbox.errors import FieldError, UnboxError
from unbox.sae.codes import Codes
from unbox.sae.encoding import combine, encode
from unbox.sae.latent_statistics import ROWS
from unbox.sae.sae_folder import CONFIG, MOST, Dimension, Threshold, threshold_tensor, threshold_value
from unbox.sae.safetensors_io import Shape, checked_file, read_tensors, write_tensors
from unbox.text_files import read_json_object
from unbox.validation import JSONObject, Real, Text, Whole, parsed, validated

FORMAT, TENSORS = "unbox-transcoder", "transcoder.safetensors"
WEIGHTS = ("W_enc", "W_dec", "b_pre", "b_lat", "b_out")


@validated
class TranscoderConfig:
    """`config.json` of a transcoder: what is known of it beside its tensors."""

    format: Literal["unbox-transcoder"]
    version: Literal[1]
    name: Text
    source: Text
    target: Text
    k: Dimension
    latents: Dimension
    width: Annotated[Whole, Ge(1), Le(MOST)]
    """Of the source."""
    target_width: Annotated[Whole, Ge(1), Le(MOST)]
    threshold: Real | None
    skip: bool
    digest: Text
    """Of the file of tensors."""
    meta: JSONObject

    def __post_init__(self) -> None:
        if self.k > self.latents:
            raise FieldError("", "k", self.k, f"k is at most the latents, {self.latents:,}")


class Transcoder(nn.Module):
    """A trained transcoder. Its weights are parameters that ask for no gradient until `requires_grad_()`."""

    W_enc: Tensor
    W_dec: Tensor
    b_pre: Tensor
    b_lat: Tensor
    b_out: Tensor
    W_skip: Tensor | None
    threshold: Tensor | None
    """() float64 that an active latent's pre-activation exceeds; None: the k largest are active."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        k: int,
        source: str = "",
        target: str = "",
        name: str = "",
        threshold: Threshold = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        """`weights`: WEIGHTS, and `W_skip` (d_out, d_in) where there is a skip."""
        super().__init__()
        (n, d), out = weights["W_enc"].shape, weights["W_dec"].shape[1]
        shapes = {"W_enc": (n, d), "W_dec": (n, out), "b_pre": (d,), "b_lat": (n,), "b_out": (out,)}
        for key, shape in shapes.items() | ({("W_skip", (out, d))} if "W_skip" in weights else set()):
            if weights[key].shape != shape:
                raise UnboxError(f"{key} has shape {tuple(weights[key].shape)}, {shape} was expected")
        for key in (*WEIGHTS, "W_skip"):
            found = nn.Parameter(weights[key].detach(), requires_grad=False) if key in weights else None
            self.register_parameter(key, found)
        if not 1 <= k <= n:
            raise UnboxError(f"k = {k} active latents of {n}: k is from 1 to the number of latents")
        self.register_buffer("threshold", threshold_tensor(threshold, n, weights["W_enc"].device))
        self.k, self.source, self.target, self.name = k, source, target, name
        self.meta = {} if meta is None else meta

    @property
    def latents(self) -> int:
        """Number of latents n."""
        return self.W_enc.shape[0]

    def encode(self, x: Tensor) -> Codes:
        """Codes of the source's vectors (..., d_in), with gradients as an SAE's have."""
        if x.shape[-1] != self.W_enc.shape[1]:
            raise UnboxError(
                f"this transcoder encodes vectors of width {self.W_enc.shape[1]}, these are {tuple(x.shape)}"
            )
        return encode(x, self.W_enc, self.b_pre, self.b_lat, self.k, self.threshold)

    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """The target (..., d_out) of codes, and of the source's vectors x that they are of, for a skip."""
        found = combine(codes, self.W_dec) + self.b_out
        if self.W_skip is None:
            return found
        if x is None:
            raise UnboxError(
                "this transcoder has a skip: decode(codes, x) needs the vectors that the codes are of"
            )
        return found + (x.to(self.W_enc) - self.b_pre) @ self.W_skip.T

    def forward(self, x: Tensor) -> Tensor:
        """The target (..., d_out) of the source's vectors (..., d_in)."""
        return self.decode(self.encode(x), x)

    @torch.no_grad()
    def figures(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """On rows x (N, d_in) and y (N, d_out): the target's fraction of variance unexplained, L0, and the
        part of the latents that were never active."""
        error, active = 0.0, torch.zeros(self.latents, dtype=torch.float64)
        for source, target in zip(x.split(ROWS), y.split(ROWS), strict=True):
            codes = self.encode(source)
            error += float((self.decode(codes, source).cpu() - target).double().square().sum())
            active += torch.bincount(codes.indices[codes.values > 0].cpu(), minlength=self.latents)
        variance = float((y - y.mean(0)).double().square().sum())
        return {
            "fvu": error / variance if variance > 0 else float(error > 0),
            "l0": float(active.sum()) / len(x),
            "dead_fraction": float((active == 0).double().mean()),
        }

    def save(self, folder: str | os.PathLike, overwrite: bool = False) -> None:
        """Write a folder of safetensors and JSON, whole or not at all."""
        tensors = {
            key: value.float() for key in (*WEIGHTS, "W_skip") if (value := getattr(self, key)) is not None
        }
        with publish_folder(folder, replace=overwrite, same=not overwrite) as temporary:
            write_tensors(temporary / TENSORS, tensors)
            write_json(
                temporary / CONFIG,
                {
                    "format": FORMAT,
                    "version": 1,
                    **{key: getattr(self, key) for key in ("name", "source", "target", "k", "latents")},
                    "width": self.W_enc.shape[1],
                    "target_width": self.W_dec.shape[1],
                    "threshold": threshold_value(self.threshold),
                    "skip": self.W_skip is not None,
                    "digest": digest(temporary / TENSORS),
                    "meta": self.meta,
                },
            )

    @classmethod
    def load(cls, folder: str | os.PathLike, device: torch.device | str = "cpu") -> "Transcoder":
        """Read a folder that `save` wrote; every shape and number is checked."""
        path = Path(folder)
        if not is_transcoder(path):
            raise UnboxError(f"{path} holds no transcoder; `unbox train --transcode` writes such folders")
        config = parsed(TranscoderConfig, read_json_object(path / CONFIG), str(path / CONFIG))
        n, d, out = config.latents, config.width, config.target_width
        shapes: dict[str, Shape | None] = {
            "W_enc": (n, d),
            "W_dec": (n, out),
            "b_pre": (d,),
            "b_lat": (n,),
            "b_out": (out,),
        }
        if config.skip:
            shapes["W_skip"] = (out, d)
        if digest(checked_file(path / TENSORS)) != config.digest:
            raise UnboxError(
                f"{path / TENSORS} is damaged or of another transcoder: its digest is not the config's"
            )
        tensors = {
            key: tensor.float().to(device) for key, tensor in read_tensors(path / TENSORS, shapes).items()
        }
        return cls(
            tensors, config.k, config.source, config.target, config.name, config.threshold, dict(config.meta)
        )


def is_transcoder(folder: Path) -> bool:
    """True for a folder with a transcoder's files."""
    return (folder / TENSORS).is_file() and (folder / CONFIG).is_file()
