"""`unbox store info | verify | repair | upgrade | merge | subset | add-blocks | push | pull`."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro
from annotated_types import MinLen
from pydantic import BeforeValidator
from tyro.conf import Positional

from unbox.capture.collect_settings import OnBad
from unbox.cli.model_options import Group, ModelOptions
from unbox.errors import FieldError
from unbox.json_types import JSON
from unbox.memory_limit import size_text
from unbox.site import AskedKind, SiteName
from unbox.validation import (
    BatchSize,
    FilePath,
    HubName,
    Index,
    Name,
    Processes,
    Rank,
    Some,
    StepIndex,
    StorePlace,
    Text,
    checked,
    validated,
)

if TYPE_CHECKING:
    from activation_store import Report, Store
    from activation_store.verify import Progress


def _source(value: object) -> object:
    """What a store is copied from."""
    is_url = isinstance(value, str) and "://" in value
    try:
        return checked(StorePlace if is_url else HubName, "", value)
    except FieldError as error:
        raise ValueError(error.rule) from None


T = TypeVar("T")
Folder = Annotated[Positional[FilePath], tyro.conf.arg(help="Folder of the store.")]
Place = Annotated[
    Positional[StorePlace],
    tyro.conf.arg(help="Folder of the store, or URL (s3://, https://, hf://datasets/)."),
]


@validated
class StoreInfoCommand:
    """What a store holds: images, blocks, steps, branches, statistics, and where it came from."""

    store: Place

    def run(self) -> None:
        from activation_store import Store

        print("\n".join(describe(Store.open(self.store))))


@validated
class StoreVerifyCommand:
    """Read every byte of a store against its digests; changes nothing. Ends with 1 if something is wrong."""

    store: Folder

    def run(self) -> int:
        from activation_store import verify

        return _print_report(self.store, _with_bar("verifying", lambda bar: verify(self.store, bar)))


@validated
class StoreRepairCommand:
    """Keep every good file of a store, move the damaged ones to damaged/, and say what is missing.

    Collecting again with the same line then makes exactly what is missing.
    """

    store: Folder

    def run(self) -> None:
        from activation_store import repair

        _print_report(self.store, _with_bar("repairing", lambda bar: repair(self.store, bar)))


@validated
class StoreUpgradeCommand:
    """Bring a store that a version before wrote up to date, in place; its files stay as they are.

    Stopped at any moment, the same line goes on.
    """

    store: Folder

    def run(self) -> None:
        from activation_store import upgrade

        moved = _with_bar("upgrading", lambda bar: upgrade(self.store, bar))
        print(f"{self.store} is up to date; {moved:,} files moved")


@validated
class StoreMergeCommand:
    """Make one store of several with equal settings. Parts of one run keep their numbers."""

    stores: Positional[Some[StorePlace]]
    """Folders of the stores, or URLs."""
    out: FilePath
    """Folder of the new store."""

    def run(self) -> None:
        from activation_store import merge

        print("\n".join(describe(_with_bar("merging", lambda bar: merge(self.stores, self.out, bar)))))


@validated
class StoreSubsetCommand:
    """Copy some blocks, steps, branches or images of a store into a new one, or change its number format."""

    store: Place
    out: FilePath
    """Folder of the new store."""
    blocks: Some[Name] | None = None
    """Blocks to keep; None: all."""
    keep_steps: Some[StepIndex] | None = None
    """Steps to keep, by the scheduler's own numbers from 0; None: all."""
    branches: Some[Name] | None = None
    """Branches to keep; None: all."""
    samples: tuple[Index, Index | None] = (0, None)
    """First image to keep, and the one after the last; None: to the end."""
    store_dtype: Literal["float16", "bfloat16", "float32", "int8", "float8"] | None = None
    """Number format of the store; None: the same as before."""

    def __post_init__(self) -> None:
        first, after = self.samples
        if after is not None and first >= after:
            raise FieldError("", "samples", self.samples, "should be the first and the one after the last")

    def run(self) -> None:
        from activation_store import subset

        copy = partial(subset, self.store, self.out, samples=slice(*self.samples), blocks=self.blocks)
        copy = partial(copy, steps=self.keep_steps, branches=self.branches, dtype=self.store_dtype)
        print("\n".join(describe(_with_bar("copying", lambda bar: copy(progress=bar)))))


@validated
class StoreAddBlocksCommand:
    """Record further blocks of a store's images, which are made again from its own prompts and seeds.

    Steps, guidance, sizes and number format are the store's; another model is refused. Its rows go together
    with the others one by one. Stopped, the same line makes what is missing.
    """

    store: Folder
    blocks: Some[SiteName]
    """Blocks to record; and other sites, as `unbox collect` takes them."""
    what: Some[AskedKind] = ("update",)
    """What is kept of each, as `unbox collect --what` takes it."""
    layers: Some[Index] | None = None
    """Transformer layers of each block, for heads and feed-forward parts; None: all."""
    batch_size: BatchSize = 8
    """Images sampled together; changes nothing but rounding, speed and memory."""
    rank: Rank | None = None
    """Number of this process, from 0; None: RANK of the environment, else 0."""
    world: Processes | None = None
    """Number of processes that write the store; None: WORLD_SIZE of the environment, else 1."""
    on_bad: OnBad = "stop"
    """An image with NaN or infinite numbers, or over the range of the store's number format: stop; skip (it
    is marked absent, with its reason, and never tried again); float32 (it is made again alone, the model in
    float32, and absent if it is bad then too).
    """
    model: Group[ModelOptions] = ModelOptions()

    def run(self) -> None:
        from unbox.capture.add_blocks import add_blocks
        from unbox.capture.collect_settings import CollectOptions

        names = ("blocks", "what", "layers", "batch_size", "rank", "world", "on_bad")
        options = CollectOptions(**{name: getattr(self, name) for name in names})
        store = add_blocks(self.model.load(), self.store, options)
        print(f"{self.store}: {len(store):,} images of {', '.join(store.blocks)}")
        for part in store.added:
            print(f"{part.path}: {len(part):,} images of {', '.join(part.schema.blocks)}")


@validated
class StorePushCommand:
    """Upload what a data set on the Hugging Face Hub lacks of a store.

    Shards go up some at a time, the log last, so that what is there can be read after every commit. Stopped,
    the same line goes on; after more was collected it sends what is new.
    """

    store: Folder
    repo: Positional[HubName]
    """owner/name of the data set on the Hub; made if it is not there."""
    private: bool = False
    """Make it readable to its owner only."""

    def run(self) -> None:
        from unbox.capture.hub import push

        done = _with_bar("pushing", lambda bar: push(self.store, self.repo, self.private, bar))
        print(f"{done.shards:,} shards sent ({size_text(done.bytes)}), {done.present:,} were there")
        print(f"https://huggingface.co/datasets/{done.repo}/tree/{done.commit}")


@validated
class StorePullCommand:
    """Copy what a folder lacks of a store on the Hugging Face Hub, or at any URL.

    Each shard is compared with its digest in the log. Stopped, the same line goes on; when the store has
    grown it copies what is new.
    """

    source: Annotated[Positional[str], BeforeValidator(_source)]
    """owner/name of a data set on the Hub, or a URL (s3://, https://)."""
    out: FilePath
    """Folder of the copy."""
    revision: Annotated[Text, MinLen(1)] | None = None
    """Branch, tag or commit."""

    def run(self) -> None:
        from unbox.capture.hub import pull

        store = _with_bar("pulling", lambda bar: pull(self.source, self.out, self.revision, bar))
        print("\n".join(describe(store)))


def describe(store: "Store") -> list[str]:
    """Lines about an open store."""
    from unbox.capture.hub import hub_record

    schema = store.schema
    size = f"{sum(entry.bytes for entry in store.entries) / 1e9:,.3g} GB"
    lines = [
        f"{store.path}: {len(store):,} images in {len(store.entries):,} files, {size}, {schema.dtype}",
        f"steps {', '.join(map(str, schema.steps))}; branches {', '.join(schema.branches)}",
        f"digest {store.digest}",
    ]
    if holes := store.missing(store.entries[-1].stop if store.entries else 0):
        some = ", ".join(f"{start}..{stop - 1}" for start, stop in holes[:8])
        lines.append(f"missing images: {some}{', ...' if len(holes) > 8 else ''}")
    if absent := store.absent:
        some = "; ".join(f"{number}: {_short(reason)}" for number, reason in islice(absent.items(), 4))
        lines.append(f"absent images: {len(absent):,} ({some}{'; ...' if len(absent) > 4 else ''})")
    if isinstance(store.path, Path) and (record := hub_record(store.path)):
        same = "" if record.digest == store.digest else ", where it had other shards"
        lines.append(f"hub: {record.repo} at {record.commit}{same}")
    lines += [f"{key}: {_short(value)}" for key, value in store.provenance.items()]
    column = max(10, *map(len, store.blocks))
    lines.append(
        f"{'block':<{column}} {'vectors':>13} {'grid':>9} {'width':>5}  norm 5%   50%   95%   deviation"
    )
    for block in store.blocks:
        rows = store[block]
        schema = rows.shards.schema
        y, x, width = schema.blocks[block]
        figures = ""
        if len(rows):
            moments = rows.moments
            quantiles = "".join(f"{float(moments.norm_quantile(q)):>8.3g}" for q in (0.05, 0.5, 0.95))
            figures = f"{quantiles} {float(moments.total_variance) ** 0.5:>10.3g}"
        site = schema.layout_of(block)
        grid = f"{x} tokens" if site.layout == "tokens" else f"{y}x{x}"
        own = "" if site.steps is None else f"  steps {', '.join(map(str, site.steps))}"
        lines.append(f"{block:<{column}} {len(rows):>13,} {grid:>9} {width:>5} {figures}{own}")
    return lines


def _short(value: JSON) -> str:
    import json

    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else text[:200] + " ..."


def _with_bar(title: str, work: "Callable[[Progress], T]") -> "T":
    from tqdm import tqdm

    with tqdm(desc=title, unit="file", leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return work(show)


def _print_report(path: Path, report: "Report") -> int:
    for finding in report.findings:
        print(f"{finding.file}: {finding.problem}")
    for start, stop in report.missing:
        print(f"missing: images {start}..{stop - 1}")
    state = "good" if report.good else f"{len(report.findings)} findings"
    print(f"{path}: {report.shards:,} good files with {report.images:,} images; {state}")
    return 0 if report.good and not report.missing else 1
