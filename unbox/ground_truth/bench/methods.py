"""What is compared: dictionaries of directions, and how each changes an image's value into another."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange

from activation_store import Rows
from unbox.edit import Edits, Feature
from unbox.edits import neurons, principal
from unbox.edits.feature_factors import FactorDictionary, nmf_factors
from unbox.edits.terms import TensorDictionary
from unbox.ground_truth.bench.learned_change import LEARNED, LearnedChange
from unbox.ground_truth.bench.mean_maps import Dictionaries, MeanMaps
from unbox.ground_truth.factor_scores import Value
from unbox.models.seeds import generator
from unbox.sae import SAE
from unbox.sae.latent_statistics import latent_stats
from unbox.shapes import Scene
from unbox.shapes.where import edit_mask

#: Dictionaries that are compared (the last if asked for); the whole mean difference; what is learned; random
#: features with the SAE edit's maps.
DICTIONARIES = ("sae", "untrained", "neurons", "pca")
#: The SAE's edit of one block alone, and its chosen edit made with fewer artifacts (`guarded_change`).
SINGLE, ARMS = "single-block", ("cleanest", "guard", "channel-guard", "swap", "guarded-swap")
METHODS = (*DICTIONARIES, "factors", "steering", *LEARNED, SINGLE, *ARMS, "random")

#: Groups of features that are made of an SAE, at most.
FACTORS_MADE = 64


def dictionaries(
    sae: SAE, sample: np.ndarray, seed: int = 0, rows: Rows | None = None
) -> dict[str, TensorDictionary]:
    """The dictionaries of a block, by name. `sample` (m, d): updates, for their mean and components; `rows`:
    of a store, from which factors of the SAE's features are made if they are given."""
    found: dict[str, TensorDictionary] = {
        "sae": sae,
        "untrained": untrained(sae, sample, seed),
        "neurons": neurons(sae.block, sample),
        "pca": principal(sae.block, sample),
    }
    if rows is not None:
        count = min(FACTORS_MADE, rows.shape[0], sae.latents)
        found["factors"] = FactorDictionary.of(nmf_factors(sae, rows, count, seed=seed), sample)
    return found


def with_statistics(sae: SAE, sample: np.ndarray) -> SAE:
    """The SAE with what edits need to know of it, measured on updates (m, d) where it does not say it."""
    rows = torch.from_numpy(np.asarray(sample, np.float32))
    if sae.stats is None:
        sae = replace(sae, stats=latent_stats(sae, [rows]))
    if not sae.update_std > 0:
        sae = replace(sae, update_std=float((rows - rows.mean(0)).square().sum(1).mean().sqrt()))
    return sae


def untrained(sae: SAE, sample: np.ndarray, seed: int = 0) -> SAE:
    """An SAE of the same shape as it is before training: random unit decoder, its transpose as the encoder,
    the updates' mean as the bias."""
    weights = torch.nn.functional.normalize(
        torch.randn(sae.latents, sae.width, generator=generator(seed)), dim=1
    )
    rows = torch.from_numpy(np.asarray(sample, np.float32))
    blank = SAE(
        W_enc=weights,
        W_dec=weights,
        b_pre=rows.mean(0),
        b_lat=torch.zeros(sae.latents),
        k=sae.k,
        block=sae.block,
        name="untrained",
        update_std=sae.update_std,
    )
    return replace(blank, stats=latent_stats(blank, [rows]))


#: How an edit varies over positions: as the mean maps do, or one number where the factor is seen.
SPREADS = ("map", "flat")


@dataclass(frozen=True)
class Change:
    """Features of one block moved from the value that an image has to the value wanted.

    Every method makes its edits so; only the dictionary differs, so that a difference in success is the
    dictionary's. With all channels as features it is mean-difference steering.
    """

    dictionary: TensorDictionary
    maps: MeanMaps
    source: str
    """Name of the dictionary among the maps."""
    features: tuple[int, ...]
    value: Value
    spread: str = "map"

    @property
    def block(self) -> str:
        return self.dictionary.block

    @property
    def name(self) -> str:
        """Block and features, as far as they can be told in a line."""
        shown = ",".join(map(str, self.features[:8]))
        return f"{self.dictionary.block}/{shown}{',...' if len(self.features) > 8 else ''}"

    def amounts(self, scene: Scene) -> np.ndarray:
        """(features, y, x): what strength 1 adds to each feature's codes in an image of the scene."""
        factor, wanted = self.value
        change = self.maps.difference(self.source, factor, wanted, scene)[..., list(self.features)]
        if self.spread == "flat":
            mask = edit_mask(factor, scene)
            weights = np.ones(self.maps.grid, np.float32) if mask is None else mask.on(*self.maps.grid)
            level = np.einsum("yxf,yx->f", change, weights) / weights.sum()
            change = weights[..., None] * level
        return np.ascontiguousarray(rearrange(change, "y x feature -> feature y x"), np.float32)

    def edits(self, scene: Scene, strength: float) -> Edits:
        """The edit of an image of the scene; none where it has the value already."""
        amounts = self.amounts(scene)
        if not amounts.any():
            return Edits()
        subject = Feature(self.dictionary.block, self.features, sae=self.dictionary)
        return Edits.of(subject.add(strength, unit="absolute", where=amounts[:, None]))


@dataclass(frozen=True)
class Joint:
    """Changes of several blocks in one run, all at the same strength."""

    parts: tuple[Change | LearnedChange, ...]

    @property
    def name(self) -> str:
        """Blocks and features, as far as they can be told in a line."""
        return " + ".join(part.name for part in self.parts)

    @property
    def features(self) -> dict[str, list[int]]:
        """Block -> features."""
        return {part.block: list(part.features) for part in self.parts}

    def edits(self, scene: Scene, strength: float) -> Edits:
        """The edits of an image of the scene."""
        return sum((part.edits(scene, strength) for part in self.parts), Edits())


def change(
    dictionaries: Dictionaries, maps: MeanMaps, method: str, value: Value, size: int, spread: str
) -> Change:
    """A method's change towards a value: the `size` features whose maps it changes most ("steering": all)."""
    source = "neurons" if method == "steering" else method
    dictionary = dictionaries[source]
    weight = maps.weight(source, value) * dictionary.W_dec.detach().norm(dim=1).numpy()
    count = len(weight) if method == "steering" else size
    chosen = [int(f) for f in np.argsort(-weight, kind="stable")[:count] if weight[f] > 0]
    return Change(dictionary, maps, source, tuple(chosen), value, spread)


def carriers(dictionaries: Dictionaries, maps: MeanMaps, value: Value, size: int) -> tuple[int, ...]:
    """The SAE's `size` features of which a value has most more than the others: those to take out."""
    gain = maps.gain("sae", value) * dictionaries["sae"].W_dec.detach().norm(dim=1).numpy()
    return tuple(int(f) for f in np.argsort(-gain, kind="stable")[:size] if gain[f] > 0)
