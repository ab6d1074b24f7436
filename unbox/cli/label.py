"""`unbox label`."""

from typing import TYPE_CHECKING, Annotated

from annotated_types import MinLen

from unbox.validation import Count, FilePath, HttpAddress, Seed, Several, Text, validated

if TYPE_CHECKING:
    from unbox.atlas import Atlas


@validated
class LabelCommand:
    """Ask a vision-language model what features mean; every label is tested on images that it has not seen.

    Labels go into the atlas with model, date and detection score (balanced accuracy; 0.5 is chance). Stopped,
    it prints the line for the features that are left. The key, if the endpoint wants one, is read from the
    variable UNBOX_ENDPOINT_KEY.
    """

    atlas: FilePath
    """Folder that `unbox atlas` wrote."""
    endpoint: HttpAddress
    """Base of an OpenAI-compatible API, like http://localhost:8000/v1."""
    endpoint_model: Annotated[Text, MinLen(1)]
    """Name of the model there."""
    features: Several[Text] = ()
    """Names like up.0.1/17; none: the densest ones without a label by a model."""
    limit: Count | None = None
    """At most so many features, where none are named; None: 20."""
    seed: Seed = 0
    """Seed of the order of the images that a label is tested on."""

    def run(self) -> None:
        import os

        from unbox.atlas import Atlas
        from unbox.atlas.vlm_labels import Endpoint, find_label, keep_label
        from unbox.stopping import Stopped, unit

        atlas = Atlas.open(self.atlas)
        asked = Endpoint(self.endpoint, self.endpoint_model, os.environ.get("UNBOX_ENDPOINT_KEY", ""))
        left = list(self.features) or self.unlabelled(atlas)
        try:
            while left:
                found = find_label(atlas, left[0], asked, self.seed)
                with unit():
                    keep_label(atlas, name := left.pop(0), found, asked, self.seed)
                    score = (
                        "not tested" if found.score is None else f"{found.score:.2f} on {found.images} images"
                    )
                    print(f"{name}: {found.text} ({score})")
        except Stopped as stop:
            stop.options = ("--features", *left) if self.features else ("--limit", str(len(left)))
            raise

    def unlabelled(self, atlas: "Atlas") -> list[str]:
        """The densest features that no model has labelled and that have images."""
        from unbox.atlas import Filter

        found = atlas.search("", Filter(density=(1e-12, 1.0)), order="density", limit=1000)
        labels = ((facts, atlas.labels(facts.id)) for facts in found)
        names = [f.name for f, labels_of in labels if all(label.kind != "model" for label in labels_of)]
        return names[: 20 if self.limit is None else self.limit]
