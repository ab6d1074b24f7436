"""The sparse autoencoder, a torch module: its weights, and what is known about its latents.

    z = ReLU(TopK(W_enc (x - b_pre) + b_lat))        codes, k of n active
    x^ = W_dec^T z + b_pre

of "Unpacking SDXL Turbo" (arXiv 2410.22366), after Gao et al. (arXiv 2406.04093). With a `threshold`, every
latent whose pre-activation exceeds it is active instead (Bussmann et al., arXiv 2412.06410).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from activation_store.files import digest
from unbox.edit import Feature
from unbox.errors import UnboxError
from unbox.models.devices import find_device
from unbox.result_cache import key_of
from unbox.sae.codes import Codes
from unbox.sae.encoding import combine, encode
from unbox.sae.hub_download import FILES, download
from unbox.sae.model_card import card
from unbox.sae.sae_folder import (
    CONFIG,
    FACTS,
    STATS,
    WEIGHTS,
    Threshold,
    read_folder,
    sae_folders,
    threshold_tensor,
    threshold_value,
    write_folder,
)
from unbox.text_files import read_json_object
from unbox.validation import FilePath, HubName, Text, checked


@dataclass(frozen=True, eq=False)
class Stats:
    """What each latent did on a sample of rows. Arrays (n,) float32 on CPU."""

    mean_active: Tensor
    """Mean value over the rows where the latent is active; 0 if it never is."""
    std_active: Tensor
    """Standard deviation over those rows."""
    max: Tensor
    """Largest value."""
    density: Tensor
    """Fraction of rows where it is active."""


@dataclass(eq=False, repr=False, init=False)
class SAE(nn.Module):
    """A trained sparse autoencoder of one block's updates. d: width of a row, n: latents.

    A torch module: its weights are parameters, which ask for no gradient until `requires_grad_()`; codes and
    reconstructions have gradients by them and by the rows. `dataclasses.replace` makes another of the same
    weights; as with every module, `to` and `load_state_dict` change the one that they are called on.
    """

    W_enc: Tensor
    """(n, d)."""
    W_dec: Tensor
    """(n, d), a unit vector per latent."""
    b_pre: Tensor
    """(d,) subtracted before encoding, added after decoding."""
    b_lat: Tensor
    """(n,) added to the pre-activations."""
    k: int
    """Active latents of a row: exactly (TopK) or on average (with a threshold)."""
    block: str = ""
    """Short name of the block, e.g. `up.0.1`."""
    name: str = ""
    """What it is called among others: its folder's name."""
    threshold: Tensor | None = field(default_factory=lambda: None)
    """What an active latent's pre-activation exceeds, () for all or (n,) for each, in float64, a buffer;
    None: the k largest are active."""
    stats: Stats | None = None
    update_std: float = 0.0
    """Root mean square distance of a row from the mean row, sqrt(E |x - E x|^2)."""
    meta: dict[str, Any] = field(default_factory=dict)
    """How it was trained and measured: JSON-able."""

    def __init__(
        self,
        W_enc: Tensor,
        W_dec: Tensor,
        b_pre: Tensor,
        b_lat: Tensor,
        k: int,
        block: str = "",
        name: str = "",
        threshold: Threshold = None,
        stats: Stats | None = None,
        update_std: float = 0.0,
        meta: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        n, d = W_enc.shape
        given = {
            "W_enc": (W_enc, (n, d)),
            "W_dec": (W_dec, (n, d)),
            "b_pre": (b_pre, (d,)),
            "b_lat": (b_lat, (n,)),
        }
        for weight, (tensor, shape) in given.items():
            if tensor.shape != shape:
                raise UnboxError(f"{weight} has shape {tuple(tensor.shape)}, W_enc wants {shape}")
            self.register_parameter(weight, nn.Parameter(tensor.detach(), requires_grad=False))
        if not 1 <= k <= n:
            raise UnboxError(f"k = {k} active latents of {n}: k is from 1 to the number of latents")
        self.register_buffer("threshold", threshold_tensor(threshold, n, W_enc.device))
        self.k, self.block, self.name = k, block, name
        self.stats, self.update_std, self.meta = stats, update_std, {} if meta is None else meta

    def __copy__(self) -> Self:
        return replace(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What moves a module: the threshold goes along, and stays in float64, where the device has that."""
        threshold, self._buffers["threshold"] = self.threshold, None
        super()._apply(fn, recurse)
        if threshold is not None and self.device.type != "mps":
            threshold = threshold.to(self.device)
        self._buffers["threshold"] = threshold
        return self

    @property
    def latents(self) -> int:
        """Number of latents n."""
        return self.W_enc.shape[0]

    @property
    def width(self) -> int:
        """Width d of the rows."""
        return self.W_enc.shape[1]

    @property
    def device(self) -> torch.device:
        return self.W_enc.device

    @property
    def dtype(self) -> torch.dtype:
        return self.W_enc.dtype

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions (..., d) of vectors x (..., d)."""
        return self.decode(self.encode(x))

    def encode(self, x: Tensor) -> Codes:
        """Codes of vectors x (..., d), in the SAE's dtype; computed in slices.

        Values have gradients by x and the encoder's weights, where those ask for them; which latents are
        active is taken as given.
        """
        if not isinstance(x, Tensor):
            raise UnboxError(f"an SAE encodes tensors, not {type(x).__name__}: give torch.as_tensor(...)")
        if x.shape[-1:] != (self.width,):
            raise UnboxError(
                f"{self.name or 'this SAE'} encodes vectors of width {self.width}, these are {tuple(x.shape)}"
            )
        return encode(x, self.W_enc, self.b_pre, self.b_lat, self.k, self.threshold)

    def decode(self, codes: Codes) -> Tensor:
        """Reconstructions (..., d) of codes, with gradients by their values and the decoder's weights."""
        return self.combine(codes) + self.b_pre

    def combine(self, codes: Codes) -> Tensor:
        """(..., d): the codes' sum of decoder directions, without the bias."""
        return combine(codes, self.W_dec)

    def feature(self, index: int | tuple[int, ...]) -> Feature:
        """One latent (or several), to edit with: `sae.feature(4977).scale(3)`."""
        for i in index if isinstance(index, tuple) else (index,):
            if not 0 <= i < self.latents:
                raise UnboxError(
                    f"{self.name or 'this SAE'} has no feature {i}; it has 0 to {self.latents - 1}"
                )
        source = self.name if self.name != self.block else None
        return Feature(block=self.block, index=index, sae=self, source=source or None)

    def with_threshold(self, threshold: Threshold) -> Self:
        """The same weights, active over a threshold; None: the k largest."""
        return replace(self, threshold=threshold)  # type: ignore[arg-type]  # any form of one is taken

    def weight_bytes(self) -> list[bytes]:
        """Each of WEIGHTS in float32: what an SAE is told from others by, whatever its dtype and device."""
        weights = (getattr(self, name).detach().cpu().float().contiguous() for name in WEIGHTS)
        return [weight.numpy().tobytes() for weight in weights]

    @property
    def digest(self) -> str:
        """SHA-256 of the weights alone, in float32: what versions before named results of an SAE by."""
        return digest(b"".join(self.weight_bytes()))

    @property
    def identity(self) -> str:
        """Short name, hexadecimal, of all that decides codes, edits, units and controls: block, weights, k,
        threshold, the latents' statistics, the updates' deviation. Not of it: name and `meta`.
        """
        statistics = [getattr(self.stats, name) for name in STATS] if self.stats is not None else []
        threshold = None if self.threshold is None else self.threshold.cpu().numpy().tobytes()
        return key_of([
            self.block,
            [digest(weight) for weight in self.weight_bytes()],
            self.k,
            None if threshold is None else digest(threshold),
            [digest(each.detach().cpu().float().numpy().tobytes()) for each in statistics],
            float(self.update_std).hex(),
        ])  # fmt: skip

    def save(self, folder: str | os.PathLike, overwrite: bool = False) -> None:
        """Write a folder of safetensors and JSON, whole or not at all. One that is there and holds
        anything else is an error unless `overwrite`.
        """
        tensors = {name: getattr(self, name) for name in WEIGHTS}
        if self.stats is not None:
            tensors |= {f"stats.{name}": getattr(self.stats, name) for name in STATS}
        facts = {name: getattr(self, name) for name in FACTS} | {"threshold": threshold_value(self.threshold)}
        write_folder(folder, tensors, facts, self.meta, card(facts, self.meta), overwrite)

    @classmethod
    def load(cls, folder: str | os.PathLike, device: torch.device | str = "cpu") -> "SAE":
        """Read a folder that `save` wrote; every shape and number is checked."""
        tensors, facts = read_folder(folder)
        statistics = [tensors[f"stats.{n}"] for n in STATS if f"stats.{n}" in tensors]
        facts |= {name: tensors[name].to(device) for name in WEIGHTS}
        return cls(**facts, stats=Stats(*statistics) if statistics else None)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        block: str | None = None,
        name: str | None = None,
        revision: str | None = None,
        device: torch.device | str = "cpu",
    ) -> "SAE":
        """One SAE of a repository `owner/name` on the Hub, or of a folder that is here.

        `block` or `name` (its folder's) say which, where there are several; only its files are fetched, into
        the Hub's cache. `revision` is a branch, tag or commit. Raises UnboxError where none or several fit.
        """
        root, asked = Path(source), {"block": block, "name": name, "revision": revision}
        for key, value in asked.items():
            if value is not None:
                checked(Text, key, value, "from_pretrained")
        remote = not root.is_dir()
        repo = checked(HubName, "source", str(source), "from_pretrained") if remote else ""
        if remote:
            root = download(repo, [CONFIG, f"*/{CONFIG}"], revision)
        found = [path for path in (root, *sorted(root.iterdir())) if (path / CONFIG).is_file()]
        fits = [
            path
            for path in found
            if name in (None, path.name) and block in (None, read_json_object(path / CONFIG).get("block"))
        ]
        if len(fits) != 1:
            which = " and ".join(
                f"{key} {value}" for key, value in asked.items() if value and key != "revision"
            )
            told = ", ".join(path.name for path in fits or found) or "no SAE of ours"
            raise UnboxError(
                f"{source} holds {'several SAEs' if fits else 'no SAE'}{f' of {which}' if which else ''}; "
                f"there is {told}: name one by `name`"
            )
        (folder,) = fits
        if remote:
            prefix = "" if folder == root else f"{folder.name}/"
            download(repo, [prefix + file for file in FILES], revision)
        return cls.load(folder, find_device(device))


def load_saes(folder: str | os.PathLike, device: torch.device | str = "cpu") -> dict[str, SAE]:
    """Every SAE in a folder (or the folder itself), keyed by block where each has its own, else by name.

    Raises UnboxError if there is none.
    """
    folder, place = checked(FilePath, "folder", folder, "load_saes"), find_device(device)
    saes = {path.name: SAE.load(path, place) for path in sae_folders(folder)}
    blocks = [sae.block for sae in saes.values()]
    if len(set(blocks)) == len(blocks) and all(blocks):
        return {sae.block: sae for sae in saes.values()}
    return {name: replace(sae, name=name) for name, sae in saes.items()}
