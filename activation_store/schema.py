"""What a store holds: its blocks and their shapes, steps, branches, number format, and where it came from."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

from activation_store.errors import StoreError
from activation_store.files import JSON
from activation_store.number_formats import NUMBER_FORMATS

FORMAT = "unbox activation store"
#: Of the folder: which shards there are is in logs (2), or in manifests (1).
VERSION = 2
#: Of the settings: what `to_json` says, of which digests are taken.
SETTINGS_VERSION = 1

#: Bytes and samples in a shard at most when their number is not given.
SHARD_BYTES, SHARD_SAMPLES = 1 << 30, 1024

#: Shards that a store of known size is cut into, as ranks share whole ones; but not below these bytes and
#: samples, as each has statistics of its own.
SHARDS, SMALL_BYTES, SMALL_SAMPLES = 256, 128 << 20, 256

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}")
#: The axes of one image's vectors in a step and branch: positions of a picture, or tokens of a sequence,
#: which are kept as a grid of one row.
LAYOUTS = ("maps", "tokens")

_LIMIT = 1 << 24  # of any one dimension: far over any model, far under any overflow


@dataclass(frozen=True)
class SiteLayout:
    """What a block's vectors are of, where they are not maps of the image stream at every step and branch."""

    layout: str = "maps"
    """One of `LAYOUTS`."""
    stream: str = "image"
    """What runs through the site: image, text; of a model with other streams, their names."""
    steps: tuple[int, ...] | None = None
    """The step indices that are kept of it, ascending; None: the store's. (0,) of what runs once an image."""
    branches: tuple[str, ...] | None = None
    """The branches that are kept of it; None: the store's."""

    def __post_init__(self) -> None:
        _require(self.layout in LAYOUTS, f"{self.layout!r} is not a layout of a store; there are {LAYOUTS}")
        _require(_NAME.fullmatch(str(self.stream)) is not None, f"{self.stream!r} is not a plain name")
        for name, check in (("steps", _checked_steps), ("branches", _checked_branches)):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, check(value))


@dataclass(frozen=True)
class Schema:
    """The shape of a store. Two stores with equal schemas hold rows of the same kind."""

    blocks: Mapping[str, tuple[int, int, int]]
    """Block name -> (height, width, channels) of its updates; of tokens (1, tokens, channels)."""
    steps: tuple[int, ...]
    """The scheduler's step indices that are kept, ascending."""
    branches: tuple[str, ...]
    """The branches that are kept: "cond", "uncond"."""
    dtype: str = "float16"
    """float16, bfloat16, float32, or int8 with one float32 scale a vector."""
    positions: int | None = None
    """Positions kept of each image, drawn at random; None keeps all."""
    shard_samples: int = 0
    """Images in a shard; 0 lets `SHARD_BYTES` decide."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """JSON: system, scheduler, weight hashes, seed: whatever must be the same for rows to belong together."""
    sites: Mapping[str, SiteLayout] = field(default_factory=dict)
    """Block name -> what its vectors are of; blocks that are not here are maps at every step and branch."""

    def __post_init__(self) -> None:
        blocks = {str(name): tuple(map(_size, shape)) for name, shape in dict(self.blocks).items()}
        object.__setattr__(self, "blocks", blocks)
        object.__setattr__(self, "steps", _checked_steps(self.steps))
        object.__setattr__(self, "branches", _checked_branches(self.branches))
        object.__setattr__(self, "provenance", dict(self.provenance))
        _require(bool(blocks), "a store needs at least one block")
        for name, shape in blocks.items():
            _require(_NAME.fullmatch(name) is not None, f"{name!r} is not a name for a block of a store")
            _require(len(shape) == 3, f"block {name} has shape {shape}, not (height, width, channels)")
        sites = {name: _site(name, value) for name, value in dict(self.sites).items()}
        object.__setattr__(self, "sites", {n: site for n, site in sites.items() if site != SiteLayout()})
        for name, site in self.sites.items():
            _require(name in blocks, f"there is a layout of {name}, which is not a block of the store")
            one = site.layout != "tokens" or blocks[name][0] == 1
            _require(one, f"block {name} has shape {blocks[name]}, not (1, tokens, channels)")
        _require(
            self.dtype in NUMBER_FORMATS,
            f"{self.dtype!r} is not a number format of a store; there are " + ", ".join(NUMBER_FORMATS),
        )
        if self.positions is not None:
            object.__setattr__(self, "positions", _size(self.positions))
        if not self.shard_samples:
            object.__setattr__(self, "shard_samples", self._fitting(SHARD_SAMPLES))
        object.__setattr__(self, "shard_samples", _size(self.shard_samples))

    def sized_for(self, total: int) -> "Schema":
        """The same with shards for a store of `total` images: as large as any, or fewer images in each."""
        small = min(SMALL_SAMPLES, SMALL_BYTES // self.sample_bytes)
        return replace(self, shard_samples=self._fitting(max(small, -(-total // SHARDS))))

    def _fitting(self, samples: int) -> int:
        """At most so many images for a shard, that fit it; a multiple of 8 from 8 on."""
        fitting = min(samples, SHARD_SAMPLES, SHARD_BYTES // self.sample_bytes)
        return fitting - fitting % 8 if fitting > 8 else max(1, fitting)

    def grid(self, block: str) -> tuple[int, int]:
        """(y, x) of what is kept of one image: the block's grid, or (1, positions)."""
        height, width, _ = self.blocks[block]
        return (height, width) if self.positions is None else (1, min(self.positions, height * width))

    def layout_of(self, block: str) -> SiteLayout:
        """What a block's vectors are of."""
        return self.sites.get(block, SiteLayout())

    def steps_of(self, block: str) -> tuple[int, ...]:
        """The step indices that are kept of a block."""
        own = self.layout_of(block).steps
        return self.steps if own is None else own

    def branches_of(self, block: str) -> tuple[str, ...]:
        """The branches that are kept of a block."""
        own = self.layout_of(block).branches
        return self.branches if own is None else own

    def shape(self, block: str, samples: int) -> tuple[int, ...]:
        """(samples, steps, branches, y, x, channels)."""
        grid, channels = self.grid(block), self.blocks[block][2]
        return (samples, len(self.steps_of(block)), len(self.branches_of(block)), *grid, channels)

    def only(
        self, blocks: Sequence[str], steps: Collection[int] | None, branches: Collection[str] | None
    ) -> "Schema":
        """The same with some blocks, steps and branches (None: all)."""

        def cut(values: tuple | None, wanted: Collection | None) -> tuple | None:
            return values if values is None or wanted is None else tuple(v for v in values if v in wanted)

        own = {
            name: replace(site, steps=cut(site.steps, steps), branches=cut(site.branches, branches))
            for name, site in self.sites.items()
            if name in blocks
        }
        shared = [name for name in blocks if name not in own or own[name].steps is None]
        return replace(
            self,
            blocks={name: self.blocks[name] for name in blocks},
            sites=own,
            steps=(cut(self.steps, steps) if shared else None) or self.steps,
            branches=cut(self.branches, branches) or self.branches,
        )

    def row_bytes(self, block: str) -> int:
        """Bytes of one vector of a block, with its scale."""
        encoding = NUMBER_FORMATS[self.dtype]
        return self.blocks[block][2] * encoding.stored.itemsize + encoding.scale_bytes

    def block_bytes(self, block: str) -> int:
        """Bytes of one image's values (and scales) in a block."""
        return prod(self.shape(block, 1)[:-1]) * self.row_bytes(block)

    @property
    def sample_vectors(self) -> int:
        """Vectors that one image adds, over all blocks."""
        return sum(prod(self.shape(block, 1)[:-1]) for block in self.blocks)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one image's values (and scales), over all blocks."""
        return sum(map(self.block_bytes, self.blocks))

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back; of it, digests of stores are taken."""
        fields = asdict(self)
        if not self.sites:  # as stores were written, and their digests taken, before there were other sites
            del fields["sites"]
        return {"format": FORMAT, "version": SETTINGS_VERSION, **fields}

    def to_file(self) -> dict[str, Any]:
        """`to_json`'s object with the version of the folder: what `store.json` holds."""
        return {**self.to_json(), "version": VERSION}

    @classmethod
    def from_json(cls, value: Any, name: str = "store.json") -> "Schema":
        """Read `to_json`'s object. Raises StoreError for other formats, newer versions, malformed fields."""
        _require(isinstance(value, dict) and value.get("format") == FORMAT, f"{name} is not of an {FORMAT}")
        fields = {key: value[key] for key in value if key not in ("format", "version")}
        if value.get("version") not in range(1, VERSION + 1):
            raise StoreError(
                f"{name} has version {str(value.get('version'))[:20]} of the format, and this program reads "
                f"versions 1 to {VERSION}: use a newer one"
            )
        try:
            return cls(**fields)
        except StoreError as error:
            raise StoreError(f"{name}: {error}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{name} is malformed: {error}") from None


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise StoreError(message)


def _site(name: str, value: "SiteLayout | JSON") -> SiteLayout:
    if isinstance(value, SiteLayout):
        return value
    _require(isinstance(value, dict), f"the layout of {name} is not an object")
    return SiteLayout(**value)  # type: ignore[arg-type]  # checked there


def _checked_steps(steps: Iterable[int]) -> tuple[int, ...]:
    steps = tuple(map(_index, steps))
    _require(bool(steps) and list(steps) == sorted(set(steps)), f"steps {steps} are not ascending")
    return steps


def _checked_branches(branches: Iterable[str]) -> tuple[str, ...]:
    branches = tuple(map(str, branches))
    _require(bool(branches) and len(set(branches)) == len(branches), f"branches {branches} are not a set")
    _require(all(map(_NAME.fullmatch, branches)), f"branches {branches} are not plain names")
    return branches


def _whole(least: int, what: str, value: JSON) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value < _LIMIT:
        return value
    raise StoreError(f"{str(value)[:40]} is not {what} from {least} to {_LIMIT - 1}")


_index, _size = partial(_whole, 0, "an index"), partial(_whole, 1, "a size")
