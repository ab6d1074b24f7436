"""`unbox train`."""

from importlib.util import find_spec
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt

from unbox.cli.model_options import Device, Group
from unbox.sae.plan import Plan, RowCount, SpecGrid, TrainSettings, read_toml
from unbox.sae.row_filter import RowFilter
from unbox.validation import FilePath, Real, Several, StorePlace, Text, validated


@validated
class TrainCommand:
    """Fit sparse autoencoders to the updates in a store.

    Every combination of blocks, k, latents, variants, seeds and learning rates is one SAE; all learn from one
    pass over the store. Stop it at any moment; the same line goes on from the last checkpoint, to the same
    bits.
    """

    store: StorePlace
    """Folder of the store that `unbox collect` wrote, or its URL (s3://, https://, hf://datasets/owner/name)."""
    out: FilePath
    """Folder for the SAEs, one folder each, and the run's records."""
    plan: FilePath | None = None
    """TOML file that declares the SAEs and the run, in place of the options that would."""
    resume: bool = False
    """Go on with the run recorded in the folder, whatever it was asked with; until it has seen --tokens, if
    they are given."""
    held_out: Annotated[Real, Ge(0), Lt(1)] | None = None
    """Share of the images kept from training, for the figures, by a hash of their numbers; None: 2 %."""
    keep: Several[RowCount] = ()
    """Write the SAEs as they stand to snapshots/ after each of these numbers of rows."""
    trackers: Several[Literal["tensorboard", "trackio", "wandb"]] = ()
    """Where metrics go besides the folder's metrics.jsonl."""
    crosscode: Several[Text] = ()
    """Sources of a crosscoder, whose rows side by side have one code, two at least: each BLOCK, BLOCK:STEP or
    BLOCK@N of the N-th further store (--with-stores), from 1."""
    with_stores: Several[StorePlace] = ()
    """Further stores of the same prompts and seeds, for --crosscode: of another model, say."""
    init_from: FilePath | None = None
    """Folder of SAEs to begin from, in place of random directions: of the same blocks and latents."""
    keep_optimizer: bool = False
    """Leave the last checkpoint of the finished run, so that --resume --tokens MORE can go on from it."""
    device: Device = None
    rows: Group[RowFilter] = RowFilter()
    grid: Group[SpecGrid] = SpecGrid()
    settings: Group[TrainSettings] = TrainSettings()

    def run(self) -> None:
        from activation_store import Store
        from unbox.sae import train
        from unbox.sae.side_by_side import SideBySide, named_sources, side_by_side

        store = Store.open(self.store)
        if find_spec("numba") is None:
            print("numba is not installed: training on a CPU is slower without it (pip install 'unbox[cpu]')")
        more = self.resume and self.settings.tokens is not None
        longer: dict[str, Any] = {"tokens": self.settings.tokens} if more else {}
        taken: Store | SideBySide = store
        if self.crosscode:
            further = [Store.open(place) for place in self.with_stores]
            taken = side_by_side(named_sources(self.crosscode, [store, *further]))
        saes = train(
            taken,
            self.out,
            plan=None
            if self.resume
            else self._plan(store.blocks if isinstance(taken, Store) else (taken.block,)),
            resume=self.resume,
            held_out=self.held_out,
            steps=self.rows.steps,
            branches=self.rows.branches,
            keep=self.keep,
            trackers=self.trackers,
            device=self.device,
            init_from=self.init_from,
            keep_optimizer=self.keep_optimizer,
            **longer,
        )
        for name, sae in saes.items():
            figures = sae.meta["figures"]
            print(
                f"{self.out / name}: FVU {figures['fvu']:.4f}, L0 {figures['l0']:.1f}, "
                f"dead {figures['dead_fraction']:.1%}, on {figures['rows_from']}"
            )

    def _plan(self, blocks: tuple[str, ...]) -> Plan:
        if self.plan is not None:
            return read_toml(self.plan)
        return Plan(**vars(self.settings), saes=self.grid.specs(blocks))
