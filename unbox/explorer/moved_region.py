"""A painted region that is dragged: what fires in it is taken away there and added where it is let go."""

import numpy as np

from unbox.edit import Edits
from unbox.edits.transport import added_maps
from unbox.errors import FieldError, UnboxError
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession
from unbox.mask import Mask

#: Features moved of each SAE, those that fire most in the region: as many as are active in a place, within
#: these. Levels of their maps. So links stay short.
FEATURES, LEVELS = (12, 64), 63


def moved_edits(
    session: ExplorerSession, recorded: RecordedImage, region: Mask, dx: float, dy: float
) -> Edits:
    """Edits that move what fires in a region of a picture by (dx, dy) of its width and height: of each SAE
    one `add` of maps (feature, step, y, x), the region's activations where it goes less those where it was.

    SAEs on whose places the region moves by less than half a place take no part. Raises UnboxError where
    nothing fires in the region, or nothing moves.
    """
    if not (-1 <= dx <= 1 and -1 <= dy <= 1):
        raise FieldError("region", "move", (dx, dy), "should be within the picture")
    edits = Edits()
    for sae, values in recorded.values.items():
        height, width = values.shape[2:4]
        by = round(dy * height), round(dx * width)
        if by == (0, 0):
            continue
        weights = region.on(height, width)
        dictionary = session.saes[sae]
        fewest, most = FEATURES
        features, maps = strongest_maps(recorded, sae, weights, min(max(dictionary.k, fewest), most))
        if not len(features):
            continue
        change = shifted(maps, by) - maps
        step = np.abs(change).max() / LEVELS
        every = dictionary.feature(tuple(map(int, features)))
        edits += added_maps(every, 1.0, np.rint(change / step) * step, recorded.steps)
    if not len(edits):
        raise UnboxError(
            "nothing that fires in this region moves so far: paint over something, drag it further"
        )
    return edits


def strongest_maps(
    recorded: RecordedImage, sae: str, weights: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` features that fire most where `weights` (y, x) are, and their activations there, (feature,
    step, y, x), on the branch of the prompt."""
    branch = recorded.branches.index("cond")
    values = recorded.values[sae][:, branch].astype(np.float32) * weights[..., None]
    indices = recorded.indices[sae][:, branch]
    sums = np.bincount(indices.ravel(), values.ravel())
    features = np.argsort(-sums, kind="stable")[:count]
    features = features[sums[features] > 0]
    return features, np.stack(
        [np.where(indices == each, values, 0).sum(-1) for each in features] or [values[..., 0]]
    )


def shifted(maps: np.ndarray, by: tuple[int, int]) -> np.ndarray:
    """Maps (..., y, x) moved by places down and to the right; what leaves the picture is gone."""
    moved = np.zeros_like(maps)
    (to_y, from_y), (to_x, from_x) = (
        _overlap(each, size) for each, size in zip(by, maps.shape[-2:], strict=True)
    )
    moved[..., to_y, to_x] = maps[..., from_y, from_x]
    return moved


def _overlap(by: int, size: int) -> tuple[slice, slice]:
    """Where a shift along an axis goes, and where it comes from."""
    return slice(max(by, 0), max(size + min(by, 0), 0)), slice(max(-by, 0), max(size - max(by, 0), 0))
