"""`unbox diff`."""

from dataclasses import replace
from typing import TYPE_CHECKING

from unbox.cli.model_options import NO_MODEL, Group, ModelOptions
from unbox.errors import UnboxError
from unbox.experiments.diff.diff_settings import ComparedSystem, DiffSettings, read_systems, store_names
from unbox.experiments.diff.said import said
from unbox.validation import Count, FilePath, Several, StorePlace, Text, validated

if TYPE_CHECKING:
    from unbox.experiments.diff.compared_stores import DrawnSystems, GivenStores
    from unbox.models import Model


@validated
class DiffCommand:
    """Which features did a training move? Systems compared on the same prompts and seeds.

    One SAE a block learns from all systems, each weighing the same. The report says how much of each system
    it explains, step by step, and which features gained or lost activity beside the first system: with
    intervals, corrected for how many features there are, and beside a random split of the first system's own
    images. Stopped at any moment, the same line goes on where it was.
    """

    out: FilePath
    """Folder for stores, SAEs, figures and the report."""
    models: Several[Text] = ()
    """Systems, the first of which the others are compared with: each a model, and after commas what is not as
    its system has it: MODEL,steps=1 or MODEL,lora=FOLDER,lora_strength=1,steps=4,guidance=0,unet=FILE,
    system=ROW,name=NAME."""
    prompts: Text | None = None
    """shapes, hub:NAME or hub:NAME:CONFIG, or a file in UTF-8: .txt, .csv, .jsonl, .parquet. Of --models
    alone."""
    limit: Count | None = None
    """At most so many prompts; needed with shapes, whose prompts have no end."""
    split: Text | None = None
    """Split of shapes (train, heldout) or of a Hub data set; None: train. Files have none."""
    column: Text | None = None
    """Column of the prompt in a table; None: the first of prompt, text and caption, in any case."""
    stores: Several[StorePlace] = ()
    """In place of --models: stores of the same prompts and seeds, each by its folder's name: what several
    GPUs collected, say."""
    saes: FilePath | None = None
    """Folder of SAEs to compare by, one for each block; None: train them on all systems."""
    dry_run: bool = False
    """Keep nothing: draw a few images of each system, take a few steps of training, and say bytes, hours and
    memory."""
    settings: Group[DiffSettings] = DiffSettings()
    model: Group[ModelOptions] = NO_MODEL

    def __post_init__(self) -> None:
        if self.stores:
            store_names(self.stores)
        else:
            read_systems(self.models, "")

    @property
    def writes(self) -> bool:
        """Whether a stop keeps anything."""
        return not self.dry_run

    def run(self) -> None:
        from unbox.experiments.diff.run_diff import DiffRun, run_diff
        from unbox.run_folder import check_writable
        from unbox.sae import load_saes

        check_writable(self.out)
        source = self._stores() if self.stores else self._systems()
        saes = None if self.saes is None else load_saes(self.saes)
        run = DiffRun(source, self.settings, saes, self.model.device)
        if self.dry_run:
            from unbox.experiments.diff.estimate_diff import estimate_diff

            print("\n".join(estimate_diff(run, self.out).lines()))
            return
        print("\n".join(said(run_diff(run, self.out))))
        print(f"open {self.out / 'report.html'}; figures: {self.out / 'figures.json'}, {self.out / 'blocks'}")

    def _systems(self) -> "DrawnSystems":
        from unbox.capture import read_prompts
        from unbox.capture.prompt_reader import PromptFile
        from unbox.experiments.diff.compared_stores import DrawnSystems, listed_prompts

        if self.prompts is None:
            raise UnboxError("say which prompts the systems draw: --prompts shapes, hub:NAME or a file")
        if self.prompts == "shapes" and self.limit is None:
            raise UnboxError("the prompts of shapes have no end: say how many with --limit")
        prompts = read_prompts(self.prompts, self.settings.seed, self.split, self.column)
        if isinstance(prompts, PromptFile):  # what is wrong with a row is said before a model is loaded
            prompts.check(weights=self.settings.prompt_weights)
        return DrawnSystems(read_systems(self.models), self.loaded, listed_prompts(prompts, self.limit))

    def _stores(self) -> "GivenStores":
        from activation_store import Store
        from unbox.experiments.diff.compared_stores import GivenStores

        return GivenStores({name: Store.open(place) for name, place in store_names(self.stores).items()})

    def loaded(self, system: ComparedSystem) -> "Model":
        """One of the systems."""
        over = {name: getattr(system, name) for name in ("model", "system", "unet", "lora")}
        if system.lora_strength is not None:
            over["lora_strength"] = (system.lora_strength,)
        return replace(self.model, **over).load()
