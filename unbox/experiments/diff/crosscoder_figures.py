"""What a crosscoder of two systems says: features that are shared, changed, or of one alone."""

import torch
from torch import Tensor

from activation_store import Rows
from unbox.json_types import JSON
from unbox.sae import Crosscoder, side_by_side
from unbox.sae.latent_scaling import LatentScaling, latent_scaling

#: What the two systems are called in a crosscoder.
SOURCES = ("first", "other")
#: A latent whose decoders' norms differ by less than this part, on a scale from 0 (of the first alone) to 1
#: (of the other alone), is in both; nearer than EDGE to an end it is of one, and in between it has changed.
BOTH, EDGE = (0.4, 0.6), 0.1
#: Least cosine of the two directions of a latent that is the same in both.
SAME = 0.9
#: Largest nu of a latent that is of one system alone: in the other's error, and in its reconstruction.
NU_ERROR, NU_RECONSTRUCTION = 0.2, 0.5
#: Names of the kinds.
KINDS = ("shared", "changed", "first alone", "other alone", "not confirmed")


def relative_norms(crosscoder: Crosscoder) -> tuple[Tensor, Tensor]:
    """(n,) where a latent's decoders are on the scale from 0, the first source alone, to 1, and the cosine of
    its two directions; rows divided by their source's deviation."""
    first, other = crosscoder.sae.W_dec.double().split(list(crosscoder.widths), 1)
    norms = torch.stack([first.norm(dim=1), other.norm(dim=1)])
    place = 0.5 * (1 + (norms[1] - norms[0]) / norms.max(0).values.clamp_min(1e-12))
    return place.cpu(), torch.nn.functional.cosine_similarity(first, other, dim=1).cpu()


def kinds_of(place: Tensor, cosine: Tensor, scaling: LatentScaling) -> list[str]:
    """The kind of each latent. One that seems to be of one system alone is `not confirmed` where latent
    scaling finds it in the other; one that was never active is `dead`."""
    found = []
    scaled = zip(scaling.nu_error.tolist(), scaling.nu_reconstruction.tolist(), strict=True)
    for at, same, (error, rebuilt), active in zip(
        place.tolist(), cosine.tolist(), scaled, scaling.active.tolist(), strict=True
    ):
        if not active:
            found.append("dead")
        elif min(at, 1 - at) < EDGE:
            alone = "first alone" if at < 0.5 else "other alone"
            found.append(alone if error < NU_ERROR and rebuilt < NU_RECONSTRUCTION else "not confirmed")
        else:
            found.append("shared" if BOTH[0] <= at <= BOTH[1] and same >= SAME else "changed")
    return found


def crosscoder_figures(crosscoder: Crosscoder, first: Rows, other: Rows, count: int) -> dict[str, JSON]:
    """FVU of each system, how many latents are of each kind, and `count` of each but the shared ones, the
    most active first."""
    rows = side_by_side(dict(zip(SOURCES, (first, other), strict=True)))
    rows = type(rows)(rows.rows, rows.widths, dict(zip(SOURCES, crosscoder_factors(crosscoder), strict=True)))
    place, cosine = relative_norms(crosscoder)
    scaling = latent_scaling(crosscoder, rows.batches(4096, epochs=1))
    kinds = kinds_of(place, cosine, scaling)
    order = torch.argsort(-scaling.active, stable=True).tolist()
    listed: list[JSON] = []
    for kind in KINDS[1:]:
        for i in [i for i in order if kinds[i] == kind][:count]:
            listed.append(
                {
                    "index": i,
                    "kind": kind,
                    "place": float(place[i]),
                    "cosine": float(cosine[i]),
                    "nu_error": float(scaling.nu_error[i]),
                    "nu_reconstruction": float(scaling.nu_reconstruction[i]),
                    "rows": int(scaling.active[i]),
                }
            )
    return {
        "rows": len(rows),
        "fvu": dict(crosscoder.fvu(rows)),
        "kinds": {kind: kinds.count(kind) for kind in (*KINDS, "dead")},
        "latents": listed,
    }


def crosscoder_factors(crosscoder: Crosscoder) -> list[float]:
    """What each source's rows are multiplied by."""
    starts = [sum(crosscoder.widths[:i]) for i in range(len(crosscoder.widths))]
    return [float(crosscoder.factors[at]) for at in starts]
