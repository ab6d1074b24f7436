"""`unbox label`."""

from itertools import islice
from typing import TYPE_CHECKING, Annotated

from annotated_types import Le, MinLen

from unbox.validation import Count, FilePath, HttpAddress, Seed, Several, Text, validated

if TYPE_CHECKING:
    from unbox.atlas import Atlas


AtOnce = Annotated[Count, Le(64)]


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
    at_once: AtOnce = 1
    """Features asked about at a time: a local endpoint that batches answers more of them in the same time."""
    seed: Seed = 0
    """Seed of the order of the images that a label is tested on."""

    def run(self) -> None:
        import os

        from unbox.atlas import Atlas
        from unbox.atlas.vlm_labels import Endpoint, find_labels, keep_label
        from unbox.stopping import Stopped, unit

        atlas = Atlas.open(self.atlas)
        asked = Endpoint(self.endpoint, self.endpoint_model, os.environ.get("UNBOX_ENDPOINT_KEY", ""))
        left = list(self.features) or self.unlabelled(atlas)
        try:
            for name, found in find_labels(atlas, tuple(left), asked, self.seed, self.at_once):
                with unit():
                    keep_label(atlas, name, found, asked, self.seed)
                    left.remove(name)
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

        found = atlas.search("", Filter(density=(1e-12, 1.0)), order="density", limit=len(atlas))
        names = (f.name for f in found if all(label.kind != "model" for label in atlas.labels(f.id)))
        return list(islice(names, 20 if self.limit is None else self.limit))
