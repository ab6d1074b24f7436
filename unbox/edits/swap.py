"""What `swap` does: where features fire, updates give way to updates of places where they do not.

After PER (arXiv 2606.31699): steering leaves the distribution of activations, and pictures show it. Here the
SAE only detects places, and what is put in are vectors that the model itself computed elsewhere.
"""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from activation_store import Rows
from unbox.edit import Edit
from unbox.edits.terms import TensorDictionary
from unbox.errors import UnboxError
from unbox.models.devices import to_device
from unbox.models.seeds import generator
from unbox.validation import Count, Real, Seed, checked


def swapped(
    edit: Edit, dictionary: TensorDictionary, update: Tensor, changed: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """What `swap` puts at each place, (images, y, x, d), and where it acts, (images, y, x, 1) of 0 and 1.

    Places fire by `update`, as the block computed it; what is put in comes from `changed`, what edits before
    have left. Each place draws by its position, the edit's seed and the step alone, so that batches change
    nothing.
    """
    fires = firing(dictionary, update, edit.feature, edit.above or 0.0)
    images, height, width = fires.shape
    draw = torch.rand(
        height * width, generator=generator((1000 * edit.seed + step) % 2**64), dtype=torch.float64
    )
    draw = to_device(draw.float(), update.device)
    if edit.donors is not None:
        rows = to_device(torch.from_numpy(edit.donors.array), update.device).to(update)
        chosen = rows[(draw * len(rows)).long().clamp(max=len(rows) - 1)]
        target = chosen.reshape(1, height, width, -1).expand_as(update)
        return target, fires[..., None].to(update)
    flat = rearrange(fires, "image y x -> image (y x)")
    order = flat.to(torch.uint8).argsort(dim=1, stable=True)  # places that do not fire, in order, come first
    count = (~flat).sum(1, keepdim=True)
    place = (draw * count).long().minimum((count - 1).clamp(min=0))
    taken = order.gather(1, place)[..., None].expand(-1, -1, changed.shape[-1])
    target = rearrange(changed, "image y x d -> image (y x) d").gather(1, taken)
    acts = flat & (count > 0)
    return target.reshape(changed.shape), acts.reshape(images, height, width, 1).to(update)


def firing(dictionary: TensorDictionary, update: Tensor, features: Sequence[int], above: float) -> Tensor:
    """(...) where any of the features has a code above a threshold, of updates (..., d)."""
    codes = dictionary.encode(update.to(dictionary.W_dec))
    wanted = to_device(torch.tensor(features), codes.indices.device)
    return (torch.isin(codes.indices, wanted) & (codes.values > above)).any(-1)


def undetected(
    sae: TensorDictionary,
    rows: Rows | np.ndarray,
    features: int | Sequence[int],
    *,
    above: float = 0.0,
    count: int = 256,
    seed: int = 0,
) -> np.ndarray:
    """(count, d) recorded updates where none of the features fires above a threshold: donors for `swap`.

    rows: of a store (`store[block]`), sampled; or updates (..., d) of a reference image, from a tape. Fewer
    where there are not so many. Raises UnboxError where the features fire in all that were looked at.
    """
    above, count = checked(Real, "above", above, "undetected"), checked(Count, "count", count, "undetected")
    seed = checked(Seed, "seed", seed, "undetected")
    named = (features,) if isinstance(features, int) else tuple(features)
    if isinstance(rows, Rows):
        some = rows.sample(min(16 * count, len(rows)), seed)
    else:
        some = np.asarray(rows, np.float32).reshape(-1, np.shape(rows)[-1])
    update = torch.from_numpy(np.asarray(some, np.float32)).to(sae.W_dec)
    quiet = ~firing(sae, update, named, above)
    found = np.asarray(some)[quiet.cpu().numpy()]
    if not len(found):
        raise UnboxError(f"the features fire in all {len(some):,} updates looked at; raise `above`")
    return found[np.random.default_rng(seed).permutation(len(found))[:count]]
