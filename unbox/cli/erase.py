"""`unbox erase`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Lt
from tyro.conf import Positional

from unbox.cli.model_options import Device, Mismatch
from unbox.edit import Branch
from unbox.errors import FieldError, UnboxError
from unbox.validation import (
    Count,
    FilePath,
    Name,
    Real,
    Several,
    Some,
    StepIndex,
    StorePlace,
    Text,
    validated,
)

if TYPE_CHECKING:
    from activation_store import Store
    from unbox.edit import Edits
    from unbox.sae import SAE


@validated
class EraseCommand:
    """Edits that take concepts out of images, chosen from a store: `unbox erase "van gogh" --store acts ...`.

    By SAeUron's rule, step by step: the features whose share of activity is larger on the concept than on the
    others are turned round wherever they fire. Writes a file for `unbox generate --edits`, and prints what
    was chosen. Several concepts are erased together; with --sequence one after the other.
    """

    concepts: Positional[Some[Text]]
    """Concepts to erase: words of the store's prompts, or values of --fact."""
    store: StorePlace
    """Folder of the store, or its URL, with images of the concepts and of others."""
    saes: FilePath
    """Folder of SAEs whose features are chosen."""
    out: FilePath = Path("erase.json")
    """JSON file of edits to write."""
    others: Several[Text] = ()
    """Concepts to compare with; left out: all images of no erased concept together (with --fact, each of its
    other values)."""
    fact: Text | None = None
    """Fact of the prompts (a column of their table) whose values are the concepts."""
    blocks: Several[Name] = ()
    """Blocks to edit; left out: all that have an SAE."""
    rule: Literal["saeuron", "difference"] = "saeuron"
    """`saeuron`, or a rule of our own: by the `difference` of mean codes, over the concept's own mean."""
    percentile: Annotated[Real, Ge(0), Lt(100)] = 99.99
    """Features above this percentile of importance are chosen, anew for each step."""
    multiplier: Real = -1.0
    """What codes are multiplied by (`saeuron`: by this times their mean on the concept)."""
    keep_steps: Some[StepIndex] | None = None
    """Steps to keep, by the scheduler's own numbers from 0; None: all."""
    hold: bool = False
    """Each step's edits act until the next one that was recorded, and not at that step alone."""
    branches: Some[Literal["cond", "uncond"]] | None = None
    """Branches to keep; None: all."""
    branch: Branch = "both"
    """Branch that the edits act on: `both`, `cond` or `uncond`."""
    limit: Count = 200
    """At most so many images of each concept are read."""
    sequence: bool = False
    """Write OUT-1, OUT-2, ...: edits for the first concept, for the first two, and so on."""
    model_mismatch: Mismatch = "warn"
    device: Device = None

    def __post_init__(self) -> None:
        if self.branch == "contrast":
            raise FieldError("", "branch", self.branch, "should be one of 'both', 'cond' or 'uncond'")

    def run(self) -> None:
        from activation_store import Store
        from unbox.edits import save_edits
        from unbox.edits.concepts import concept_images
        from unbox.model_mismatch import check_same_model
        from unbox.models.devices import find_device
        from unbox.run_folder import check_writable_file
        from unbox.sae import load_saes
        from unbox.stopping import unit

        files = self.files()
        for file in files:
            check_writable_file(file)
        store, saes = Store.open(self.store), load_saes(self.saes, find_device(self.device))
        chosen = {n: s for n, s in saes.items() if s.block in (self.blocks or store.blocks)}
        if missing := next((b for b in self.blocks if b not in [s.block for s in chosen.values()]), None):
            raise FieldError(
                "", "blocks", missing, f"should have an SAE: {', '.join(s.block for s in saes.values())}"
            )
        if not chosen:
            raise UnboxError(f"{self.store} has none of the SAEs' blocks; it has {', '.join(store.blocks)}")
        check_same_model(chosen, store=store, policy=self.model_mismatch)
        images = concept_images(store, self.concepts, self.others, fact=self.fact, limit=self.limit)
        print("; ".join(f"{name}: {len(some)} images" for name, some in images.items()))
        ends = range(1, len(self.concepts) + 1) if self.sequence else [len(self.concepts)]
        made = self.edits(store, chosen, images, [self.concepts[:end] for end in ends])
        with unit(last=True):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            for file, edits in zip(files, made, strict=True):
                print(f"wrote {len(edits)} edits: {save_edits(edits, file)}")

    def files(self) -> list[Path]:
        """What is written, one for each step of a sequence."""
        if not self.sequence:
            return [self.out]
        return [self.out.with_stem(f"{self.out.stem}-{i + 1}") for i in range(len(self.concepts))]

    def edits(
        self,
        store: "Store",
        saes: "dict[str, SAE]",
        images: dict[str, list[int]],
        each: "list[tuple[str, ...]]",
    ) -> "list[Edits]":
        """Edits for each group of concepts; prints the features by block and step of the last."""
        from functools import partial

        from unbox.edit import Edits
        from unbox.edits.erasure import concept_codes, erase, erase_by_difference

        made = [Edits() for _ in each]
        for name, sae in saes.items():
            rows = store[sae.block].filter(steps=self.keep_steps, branches=self.branches)
            codes = concept_codes(sae, {c: rows.filter(samples=some) for c, some in images.items()})
            choose = partial(
                erase if self.rule == "saeuron" else erase_by_difference,
                sae, codes, percentile=self.percentile, branch=self.branch, hold=self.hold,
            )  # fmt: skip
            factor = "multiplier" if self.rule == "saeuron" else "scale"
            groups = [choose(erased, **{factor: self.multiplier}) for erased in each]
            made = [before + found for before, found in zip(made, groups, strict=True)]
            for edit in groups[-1]:
                assert edit.steps is not None
                print(f"{name} steps {edit.steps[0]} to {edit.steps[1] - 1}: {edit.summary}")
        return made
