"""How strongly a feature is added where nobody has said it, and what 1 is on its slider: two things."""

from dataclasses import dataclass

from unbox.edit import Edit
from unbox.explorer.session import ExplorerSession
from unbox.sae.direction_set import directions_of

#: The strength taken where none is calibrated, in the feature's own largest activation, and its bounds in
#: deviations: at it six of eight features of colours and shapes bring about what their labels say in about
#: half of six captions or more (stars take more), of SAEs with 8 active latents; of the bundled ones, with
#: 32, fewer do. Above the upper one pictures are artifacts. And that of features without statistics.
OWN_MAXIMA, LEAST, MOST, UNKNOWN = 3.0, 4.0, 6.0, 4.0


@dataclass(frozen=True)
class FeatureScale:
    """A feature's strengths when it is added, in deviations of its block's updates."""

    start: float
    """Where the slider starts: with most effect and few artifacts."""
    unit: float | None
    """What 1 is on the slider: the strength that is known to be enough. None: none is known."""
    origin: str
    """Where these come from, in words."""


def feature_scale(session: ExplorerSession, name: str) -> FeatureScale:
    """As calibrated, else by its own largest activation, else four deviations."""
    known = session.strengths.get(name)
    if known is not None:
        start = known.start or known.strength
        read = f"calibrated: {known.factor} {known.value} is read from 1 on"
        for each in (each for each in known.held_out if each.strength == start):
            read += f"; where it starts in {each.read * each.pictures:.0f} of {each.pictures} other pictures"
        return FeatureScale(start, known.strength, read)
    sae, _, index = name.rpartition("/")
    of = session.dictionaries.get(sae)
    if of is not None and of.update_std > 0 and (named := directions_of(of)) and int(index) < of.latents:
        length = named[int(index)].length / of.update_std
        return FeatureScale(length, length, f"1 is this {named[int(index)].kind} as it was given")
    if of is not None and of.stats is not None and of.update_std > 0 and int(index) < of.latents:
        largest = float(of.stats.max[int(index)]) * float(of.W_dec[int(index)].norm()) / of.update_std
        if largest > 0:
            return FeatureScale(_rounded(OWN_MAXIMA * largest), None, "by its own largest activation")
    return FeatureScale(UNKNOWN, None, "nothing is known of it")


def scale_of_layer(session: ExplorerSession, edit: Edit) -> FeatureScale | None:
    """The scale of a layer's slider: of one feature that is added, in deviations."""
    if edit.op != "add" or edit.unit != "deviation" or len(edit.feature) != 1:
        return None
    return feature_scale(session, f"{edit.source or edit.block}/{edit.feature[0]}")


def _rounded(value: float) -> float:
    """Within the bounds, to two digits."""
    return float(f"{min(max(value, LEAST), MOST):.2g}")
