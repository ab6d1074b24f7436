"""`unbox train`."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Lt

from unbox.cli.model_options import NO_MODEL, Group, ModelOptions
from unbox.errors import UnboxError
from unbox.online.online_images import OnlineImages, PlannedImages, read_images
from unbox.sae.plan import Plan, RowCount, SpecGrid, TrainSettings, read_toml
from unbox.site import DEFAULT_BLOCKS
from unbox.validation import FilePath, Processes, Real, Several, StorePlace, Text, validated

if TYPE_CHECKING:
    from unbox.sae import SAE


@validated
class TrainCommand:
    """Fit sparse autoencoders to the updates in a store, or as a model generates them.

    Every combination of blocks, k, latents, variants, seeds and learning rates is one SAE; all learn from one
    pass. With --store rows come from a store; with --model and --prompts from images that are made while the
    SAEs are trained, each once for all of them, and nothing but a held-out part is written. Stop it at any
    moment; the same line goes on from the last checkpoint, to the same bits.
    """

    out: FilePath
    """Folder for the SAEs, one folder each, and the run's records."""
    store: StorePlace | None = None
    """Folder of the store that `unbox collect` wrote, or its URL (s3://, https://, hf://datasets/owner/name);
    None: rows are generated, see --prompts.
    """
    plan: FilePath | None = None
    """TOML file that declares the SAEs and the run, and the images of a run without a store, in place of the
    options that would.
    """
    resume: bool = False
    """Go on with the run recorded in the folder, whatever SAEs it was asked with; until it has seen --tokens,
    if they are given.
    """
    held_out: Annotated[Real, Ge(0), Lt(1)] | None = None
    """Share of the images kept from training, for the figures; None: 2 %. Of a store by a hash of their
    numbers; without one the first, no more than the figures need (65,536 rows), in a store in `held-out`.
    """
    keep: Several[RowCount] = ()
    """Write the SAEs as they stand to snapshots/ after each of these numbers of rows."""
    trackers: Several[Literal["tensorboard", "trackio", "wandb"]] = ()
    """Where metrics go besides the folder's metrics.jsonl."""
    crosscode: Several[Text] = ()
    """Sources of a crosscoder, whose rows side by side have one code, two at least: each BLOCK, BLOCK:STEP or
    BLOCK@N of the N-th further store (--with-stores), from 1."""
    with_stores: Several[StorePlace] = ()
    """Further stores of the same prompts and seeds, for --crosscode: of another model, say."""
    transcode: Several[Text] = ()
    """SOURCE TARGET, written as for --crosscode: train transcoders, whose codes of the source reconstruct the
    target, in place of SAEs."""
    skip: bool = False
    """Give transcoders a linear map beside their latents."""
    init_from: FilePath | None = None
    """Folder of SAEs to begin from, in place of random directions: of the same blocks and latents."""
    keep_optimizer: bool = False
    """Leave the last checkpoint of the finished run, so that --resume --tokens MORE can go on from it."""
    dry_run: bool = False
    """Train nothing: generate and train for a moment, and say the hours, bytes and memory of a run from
    generation, and of a store first.
    """
    gpus: Processes = 1
    """GPUs that a dry run plans for."""
    grid: Group[SpecGrid] = SpecGrid()
    settings: Group[TrainSettings] = TrainSettings()
    images: Group[OnlineImages] = OnlineImages()
    model: Group[ModelOptions] = NO_MODEL

    @property
    def writes(self) -> bool:
        """Whether a stop keeps anything."""
        return not self.dry_run

    def run(self) -> None:
        if find_spec("numba") is None:
            print("numba is not installed: training on a CPU is slower without it (pip install 'unbox[cpu]')")
        if self.transcode:
            self._transcode()
            return
        for name, sae in (self._from_generation() if self.store is None else self._from_store()).items():
            figures = sae.meta["figures"]
            print(
                f"{self.out / name}: FVU {figures['fvu']:.4f}, L0 {figures['l0']:.1f}, "
                f"dead {figures['dead_fraction']:.1%}, on {figures['rows_from']}"
            )

    def _from_store(self) -> "dict[str, SAE]":
        from activation_store import Store
        from unbox.sae import train
        from unbox.sae.side_by_side import SideBySide, named_sources, side_by_side

        assert self.store is not None
        store = Store.open(self.store)
        taken: Store | SideBySide = store
        if self.crosscode:
            further = [Store.open(place) for place in self.with_stores]
            taken = side_by_side(named_sources(self.crosscode, [store, *further]))
        blocks = store.blocks if isinstance(taken, Store) else (taken.block,)
        return train(
            taken,
            self.out,
            plan=None if self.resume else self._plan(blocks),
            resume=self.resume,
            held_out=self.held_out,
            steps=self.images.keep_steps,
            branches=self.images.branches,
            device=self.model.device,
            **self._how,
        )

    @property
    def _how(self) -> dict[str, Any]:
        """What training from a store and from generation have in common."""
        names = ("keep", "trackers", "init_from", "keep_optimizer")
        more = {"tokens": self.settings.tokens} if self.resume and self.settings.tokens is not None else {}
        return {name: getattr(self, name) for name in names} | more

    def _from_generation(self) -> "dict[str, SAE]":
        from unbox.capture import read_prompts
        from unbox.capture.prompt_reader import PromptFile
        from unbox.models.devices import find_device
        from unbox.online import estimate_online, train_online
        from unbox.ranks import ranks
        from unbox.sae.checkpoint import recorded_plan

        planned = read_images(self.plan) if self.plan is not None else None
        images = planned or PlannedImages(**vars(self.images))
        name = self.model.model or images.model
        if images.prompts is None or not name:
            raise UnboxError(
                "say what to train on: the rows of --store, or, straight from generation, --model and "
                "--prompts (or a --plan with a table [images])"
            )
        if images.prompts == "shapes" and images.limit is None:
            raise UnboxError("the prompts of shapes have no end: say how many with --limit")
        plan = recorded_plan(self.out) if self.resume else self._plan(self.grid.blocks or DEFAULT_BLOCKS)
        prompts = read_prompts(images.prompts, images.image_seed, images.split, images.column)
        if isinstance(prompts, PromptFile):
            prompts.check(weights=images.prompt_weights)  # a row's faults are said before a model is loaded
        device = self.model.device
        if device is None and ranks().world > 1 and (gpu := find_device(None, ranks().local)).type == "cuda":
            device = str(gpu)
        model = replace(self.model, model=name, device=device).load()
        options: dict[str, Any] = {"held_out": self.held_out, "device": device}
        if self.dry_run:
            found = estimate_online(model, prompts, plan, images, gpus=self.gpus, beside=self.out, **options)
            print("\n".join(found.lines()))
            return {}
        options |= {"resume": self.resume, **self._how}
        return train_online(model, prompts, self.out, plan, images, **options)

    def _transcode(self) -> None:
        from activation_store import Store
        from unbox.sae import train_transcoder
        from unbox.sae.held_out import HELD_OUT
        from unbox.sae.side_by_side import named_sources

        if len(self.transcode) != 2:
            raise UnboxError(f"--transcode takes a source and a target; {len(self.transcode)} were given")
        assert self.store is not None
        further = [Store.open(place) for place in self.with_stores]
        source, target = named_sources(self.transcode, [Store.open(self.store), *further]).values()
        held_out = HELD_OUT if self.held_out is None else self.held_out
        found = train_transcoder(
            source,
            target,
            self.out,
            plan=self._plan(("",)),
            skip=self.skip,
            held_out=held_out,
            device=self.model.device,
        )
        for name, one in found.items():
            figures = one.meta["figures"]
            print(f"{self.out / name}: FVU {figures['fvu']:.4f}, L0 {figures['l0']:.1f}")

    def _plan(self, blocks: Sequence[str]) -> Plan:
        if self.plan is not None:
            return read_toml(self.plan)
        return Plan(**vars(self.settings), saes=self.grid.specs(blocks))
