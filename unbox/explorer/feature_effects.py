"""What a feature causes: what changes when it is added, what is lost without it; beside random features."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from unbox.edit import Edit, Edits
from unbox.edits import bind, random_control
from unbox.errors import UnboxError
from unbox.experiments.commitment import Commitment, commitment
from unbox.explorer.feature_scale import feature_scale
from unbox.explorer.html import render
from unbox.explorer.image_difference import mean_change
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.session import ExplorerSession
from unbox.sae.direction_set import as_direction

#: Strengths tried, in the feature's default one; captions under which it fires that are drawn without it; and
#: pictures that it is added to.
TRIED, ABLATED, PICTURES = (0.5, 1.0, 2.0), 3, 8
#: What a table of pictures without a critic holds.
CHANGE, ARTIFACTS = "mean change (of 255)", "artifacts"


@dataclass(frozen=True)
class AblatedPicture:
    """A caption's picture, without the feature, and without a random one."""

    prompt: str
    pictures: tuple[Image.Image, Image.Image, Image.Image]


@dataclass(frozen=True)
class FeatureEffects:
    """What adding a feature changes."""

    columns: tuple[str, ...]
    """Strengths, and the random control's last."""
    rows: tuple[tuple[str, tuple[float, ...]], ...]
    """Factor -> share of pictures whose reading changed; without a critic, how much pictures changed."""
    pictures: int
    shares: bool
    """Whether the rows are shares."""
    ablated: tuple[AblatedPicture, ...]
    curves: Commitment | None
    """Change by the steps at which the edit acts; None in runs of one step."""


def measure_effects(session: ExplorerSession, name: str, seed: int = 0) -> FeatureEffects:
    """Add the feature at strengths about its default, on pictures of the critic's world or, where no critic
    knows the system, on those of the captions under which it fires; draw these without it. `seed` draws the
    random features. Raises UnboxError for a feature that is not there."""
    feature, default = session.feature(name), feature_scale(session, name).start
    tried = [Edits((feature.add(each * default, unit="deviation"),)) for each in TRIED]
    edits = [*tried, _control(session, tried[1], seed)]
    columns = (*(f"{each * default:.3g} deviations" for each in TRIED), f"random, {default:.3g}")
    captions = _captions(session, name)
    ablated = tuple(_without(session, each, feature.ablate(), seed) for each in captions[:ABLATED])
    curves = _curves(session, captions, tried[1])
    if session.critic is not None:
        rows = _factors(session, edits)
        return FeatureEffects(columns, rows, PICTURES, True, ablated, curves)
    if not captions:
        rule = "fires in no image of an atlas, and no critic knows this system: there is nothing to try it on"
        raise UnboxError(f"{name} {rule}")
    plain = _recipes(session, captions)
    means = tuple(float(_change(session, plain, each).mean()) for each in edits)
    return FeatureEffects(columns, ((CHANGE, means),), len(plain), False, ablated, curves)


def effects_html(name: str, found: FeatureEffects) -> str:
    """The effects of a feature as HTML."""
    most = max((value for _, values in found.rows for value in values), default=0.0) or 1.0
    rows = [(factor, [(value, value / most) for value in values]) for factor, values in found.rows]
    curves = [] if found.curves is None else [
        (row["curve"], row["at"], row["effect"]) for row in found.curves.rows
    ]  # fmt: skip
    return render("feature_effects.html", name=name, found=found, rows=rows, curves=curves)


def _factors(session: ExplorerSession, edits: Sequence[Edits]) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Share of pictures in which a factor's reading changed, by set of edits, the most first; artifacts."""
    trials, places = session.trials(), range(PICTURES)
    found: dict[str, list[float]] = {}
    spoilt = []
    for each in edits:
        after = trials.drawn(places, each)
        rows = trials.read(places, after, None)
        spoilt.append(trials.spoilt(after))
        for key in (key for key in rows[0] if key.startswith("changed_")):
            found.setdefault(key.removeprefix("changed_"), []).append(float(np.mean([r[key] for r in rows])))
    order = sorted(found, key=lambda factor: -found[factor][1])
    return (*((factor, tuple(found[factor])) for factor in order), (ARTIFACTS, tuple(spoilt)))


def _captions(session: ExplorerSession, name: str) -> list[str]:
    """Captions under which the feature fires most; the atlas's."""
    found = [] if session.atlas is None else [each.prompt for each in session.atlas.examples(name, "top")]
    return list(dict.fromkeys(found))[:PICTURES]


def _recipes(session: ExplorerSession, captions: Sequence[str]) -> list[Recipe]:
    plain = session.defaults(session.default)
    return [replace(plain, prompt=caption) for caption in captions]


def _control(session: ExplorerSession, edits: Edits, seed: int) -> Edits:
    bound = bind(edits, session.editable(session.default))
    return random_control(Edits(tuple(map(as_direction, bound))), (seed,))


def _without(session: ExplorerSession, caption: str, ablation: Edit, seed: int) -> AblatedPicture:
    (plain,) = _recipes(session, [caption])
    edits = Edits((ablation,)), _control(session, Edits((ablation,)), seed)
    pictures = session.generate([plain, *(replace(plain, edits=each) for each in edits)])
    return AblatedPicture(caption, (pictures[0], pictures[1], pictures[2]))


def _change(session: ExplorerSession, plain: Sequence[Recipe], edits: Edits) -> np.ndarray:
    """(n,) mean change of each picture, of 255."""
    before = session.generate(plain)
    after = session.generate([replace(each, edits=edits) for each in plain])
    return np.array([mean_change(b, a)[0] for b, a in zip(before, after, strict=True)])


def _curves(session: ExplorerSession, captions: Sequence[str], edits: Edits) -> Commitment | None:
    plain, steps = _recipes(session, captions[:ABLATED]), session.defaults(session.default).steps
    return (
        None
        if steps < 2 or not plain
        else commitment(lambda some: _change(session, plain, some), edits, steps)
    )
