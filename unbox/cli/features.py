"""`unbox features`."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from unbox.cli.model_options import NO_MODEL, Group, ModelOptions
from unbox.errors import FieldError, UnboxError
from unbox.validation import Count, FilePath, Name, Pair, Several, Share, StepIndex, Text, validated

if TYPE_CHECKING:
    from unbox.atlas import Atlas, Facts


#: As `unbox.atlas` orders what is found.
Order = Literal["density", "rarest", "activation", "label score", "index"]


@validated
class FeaturesCommand:
    """Search an atlas, or show everything about one feature: `unbox features red --atlas atlas/`.

    A name like up.0.1/17 shows that feature; words search labels and captions, or with --model by meaning,
    through the text encoders of that model; without words the densest features are listed.
    """

    atlas: FilePath
    """Folder that `unbox atlas` wrote."""
    words: Positional[Several[Text]] = ()
    """What to look for: words, a feature's name, or an index."""
    block: Name | None = None
    """Block of the features; None: any."""
    density: Pair[Share] | None = None
    """Only features that are active in a share of places between these two, from 0 to 1."""
    step: StepIndex | None = None
    """Only features that are most often active at this step."""
    labelled: bool = False
    """Only features with a label."""
    order: Order | None = None
    """density, rarest, activation, label score or index; None: best match first, density without words."""
    limit: Count = 20
    """At most so many features."""
    json: bool = False
    """Print JSON, an object a line."""
    model: Group[ModelOptions] = NO_MODEL

    def __post_init__(self) -> None:
        if self.density is not None and self.density[0] > self.density[1]:
            raise FieldError("", "density", self.density, "should be the smaller share and then the larger")

    def run(self) -> None:
        from unbox.atlas import Atlas

        atlas, text = Atlas.open(self.atlas), " ".join(self.words)
        found = self._found(atlas, text)
        if not found:
            raise UnboxError(f"no feature of {self.atlas} fits; try other words, or a wider range")
        if len(found) == 1 and text.strip() == found[0].name:
            self._tell(atlas, found[0])
            return
        for facts in found:
            print(json.dumps(asdict(facts)) if self.json else line(facts))

    def _found(self, atlas: "Atlas", text: str) -> "list[Facts]":
        from unbox.atlas import Filter

        among = Filter(block=self.block, density=self.density, step=self.step, labelled=self.labelled)
        if not self.model.model:
            search = atlas.find(text, among, order=self.order, limit=self.limit)
            if search.note:
                print(search.note, file=sys.stderr)
            return search.found
        return [each.facts for each in atlas.meaning(self.model.load(), text, among, limit=self.limit)]

    def _tell(self, atlas: "Atlas", facts: "Facts") -> None:
        """Everything about a feature, as JSON or as lines."""
        related = {k: atlas.related(facts.id, k) for k in ("neighbours", "coactive", "elsewhere")}
        labels, words, top = atlas.labels(facts.id), atlas.words(facts.id), atlas.examples(facts.id, "top")
        if self.json:
            shown = asdict(facts) | {"labels": [asdict(each) for each in labels], "words": dict(words)}
            shown |= {k: {r.facts.name: r.score for r in rows} for k, rows in related.items()}
            shown |= {"top": [{"prompt": e.prompt, "seed": e.seed, "peak": e.peak} for e in top]}
            print(json.dumps(shown))
            return
        life = atlas.life(facts.id)
        print(line(facts))
        print(f"  mean {facts.mean:.3g} +- {facts.std:.3g} where active, largest {facts.largest:.3g}")
        places = ", ".join(f"{s}: {n:,}" for s, n in zip(life.steps, life.places, strict=True))
        print(f"  places by step: {places}")
        print("  words: " + (", ".join(f"{term} ({z:.1f})" for term, z in words) or "none"))
        for label in labels:
            print(f"  label: {label.text} (by {label.author}, {label.made[:10]})")
        for kind, rows in related.items():
            print(f"  {kind}: " + (", ".join(f"{r.facts.name} {r.score:.2f}" for r in rows) or "none"))
        for each in top[:10]:
            print(f"  {each.peak:8.3g}  {each.prompt}")


def line(facts: "Facts") -> str:
    """A feature in a line: name, density, label and its score."""
    score = "" if facts.score is None else f"  ({facts.score:.2f})"
    return f"{facts.name:16} {facts.density:9.4%}  {facts.label or '-'}{score}"
