"""`unbox evaluate`: held-out figures of SAEs, by block, step, branch and position."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from unbox.cli.model_options import NO_MODEL, Group, Mismatch, ModelOptions
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.validation import Count, FilePath, Index, Positive, Some, StepIndex, StorePlace, validated

if TYPE_CHECKING:
    import torch

    from activation_store import Store
    from unbox.models import Model
    from unbox.result_cache import ResultCache
    from unbox.run_folder import RunFolder
    from unbox.sae import SAE
    from unbox.sae.distributed import ProcessGroup


@validated
class EvaluateCommand:
    """Measure SAEs on a store that they were not trained on.

    Prints FVU, explained variance and L0 of each SAE by step and branch; writes a table and plots with --out,
    where the figures of each SAE are kept as they come: stopped at any moment, the same line goes on.
    Under `torchrun` each process takes its share of the images.
    With --images, draws images of the store again with updates replaced by reconstructions; the model is then
    the one that the store was recorded from.
    """

    saes: FilePath
    """Folder of SAEs that `unbox train` wrote, or of one."""
    store: StorePlace
    """Folder of the store with rows of the same blocks, or its URL."""
    limit: Count | None = None
    """At most so many rows of each block, evenly over its images; None: all."""
    keep_steps: Some[StepIndex] | None = None
    """Steps to keep, by the scheduler's own numbers from 0; None: all."""
    branches: Some[Literal["cond", "uncond"]] | None = None
    """Branches to keep; None: all of the store."""
    max_norm: Positive | None = None
    """Rows of a norm over so many times the median are left out; None: none, those over ten times counted."""
    stability: bool = False
    """Compare the features of SAEs of one block, pair by pair (trained with several seeds, say)."""
    images: Index = 0
    """Images of the store to draw again with reconstructions, and with the block ablated; needs --model."""
    out: FilePath | None = None
    """Folder for figures.json, table.md and plots."""
    model_mismatch: Mismatch = "warn"
    model: Group[ModelOptions] = NO_MODEL

    @property
    def writes(self) -> bool:
        """Whether a stop keeps anything."""
        return self.out is not None

    def run(self) -> None:
        from contextlib import nullcontext

        from unbox.run_folder import run_folder
        from unbox.sae.distributed import group, local_device

        if self.images and not self.model.model:
            raise UnboxError("--images draws images again: say with --model which model the store is of")
        processes = group(device := local_device(self.model.device))
        writes = self.out is not None and processes.rank == 0
        with run_folder(cast(Path, self.out), "evaluate") if writes else nullcontext() as folder:
            self._evaluate(folder, device, processes)

    def _evaluate(
        self, folder: "RunFolder | None", device: "torch.device", processes: "ProcessGroup"
    ) -> None:
        from activation_store import Store
        from unbox.model_mismatch import check_same_model
        from unbox.sae import Figures, load_saes
        from unbox.sae.report import write_report

        first = processes.rank == 0
        store, saes = Store.open(self.store), load_saes(self.saes, device)
        model = self.model.load() if self.images and first else None
        check_same_model(saes, model=model, store=store, policy=self.model_mismatch)
        results = processes.from_first(
            lambda: None if folder is None else self._claimed(folder, saes, store, model)
        )
        found = {}
        for name, sae in saes.items():
            found[name] = Figures.from_json(self._figures(sae, store, results, processes))
            if first:
                print(f"{name}  (k {sae.k}, {sae.latents} latents)\n{found[name].table()}\n")
        if not first:
            return
        pages = self._pages(saes, store, model, results)
        print("\n".join(pages.values()), end="")
        if folder is not None:
            write_report(found, folder.path, pages)
            print(f"Written: {self.out}")

    def _figures(
        self, sae: "SAE", store: "Store", results: "ResultCache | None", processes: "ProcessGroup"
    ) -> dict[str, Any]:
        """The figures of an SAE: those that are kept, or new ones, which the first process keeps."""
        from unbox.sae import evaluate

        key = ["figures", sae.identity]
        if results is not None and processes.from_first(lambda: results.has(key)):
            return processes.from_first(lambda: results.get(key, dict))
        made = evaluate(
            sae,
            store,
            limit=self.limit,
            steps=self.keep_steps,
            branches=self.branches,
            max_norm=self.max_norm,
            processes=processes,
        ).to_json()
        return made if results is None or processes.rank else results.get(key, lambda: made)

    def _claimed(
        self, folder: "RunFolder", saes: "Mapping[str, SAE]", store: "Store", model: "Model | None"
    ) -> "ResultCache":
        """The figures that the folder keeps. Raises UnboxError where it is of another evaluation."""
        from unbox.result_cache import ResultCache

        if not folder.recorded() and (folder.path / "figures.json").exists():
            raise UnboxError(f"{folder.path} holds the figures of a version before; choose another folder")
        context: dict[str, JSON] = {
            "store": store.identity,
            "limit": self.limit,
            "images": self.images,
            **{key: value for key, value in self._chosen().items() if value is not None},
            "model": None if model is None else model.identity,
        }
        asked: dict[str, JSON] = {
            "saes": {name: sae.identity for name, sae in saes.items()},
            "stability": self.stability,
        }
        folder.claim({**context, **asked})
        return ResultCache(folder.path / "kept", context)

    def _chosen(self) -> dict[str, JSON]:
        """Which rows are taken, where not all are."""
        return {"steps": self.keep_steps, "branches": self.branches, "max_norm": self.max_norm}

    def _pages(
        self,
        saes: "Mapping[str, SAE]",
        store: "Store",
        model: "Model | None",
        results: "ResultCache | None",
    ) -> dict[str, str]:
        """What was asked for besides, as Markdown by file name."""
        pages = {}
        if self.stability:
            from unbox.sae.stability import seed_stability, stability_table

            blocks = dict.fromkeys(sae.block for sae in saes.values())
            groups = [[sae for sae in saes.values() if sae.block == block] for block in blocks]
            pairs = [pair for group in groups for pair in seed_stability(group)]
            pages["stability.md"] = stability_table(pairs)
        if model is not None:
            from unbox.experiments.faithfulness import faithfulness_on, faithfulness_table

            rows = faithfulness_on(model, saes, store, self.images, results)
            pages["pictures.md"] = faithfulness_table(rows)
        return pages
