"""Blocks that were added to a store later: each addition is a store of its own beside it, of the same images.

`acts/added/mid.0/` has the shards of `acts/` over again: the same ranges of images, prompts, seeds and absent
images, with other blocks. So rows of both go together one by one, and it can be read and verified alone.
"""

from collections.abc import Sequence

from activation_store.entries import Entry
from activation_store.schema import Schema

#: Folder of the additions in a store's.
ADDED = "added"


def folder_name(schema: Schema) -> str:
    """What the folder of an addition is called: its blocks."""
    return "__".join(schema.blocks)[:200]


def difference(store: Sequence[Entry], added: Sequence[Entry]) -> str:
    """Why an addition cannot be read beside its store, or nothing: no shard is opened."""
    if list(map(_images, store)) == list(map(_images, added)):
        return ""
    have, wanted = (sum(entry.samples for entry in some) for some in (added, store))
    if have != wanted:
        return f"it has {have:,} of {wanted:,} images: `unbox store add-blocks` with the same blocks goes on"
    absent, own = ({number for e in some for number, _ in e.absent} for some in (store, added))
    if absent != own:
        some = ", ".join(map(str, sorted(absent ^ own)[:8]))
        return f"other images are absent in it ({some}): open it as a store of its own"
    return "it is of other prompts or seeds, or in other shards"


def _images(entry: Entry) -> tuple[int, int, str, tuple[int, ...]]:
    return entry.start, entry.stop, entry.prompts, tuple(number for number, _ in entry.absent)
