"""`unbox atlas`."""

from dataclasses import replace
from typing import TYPE_CHECKING

from unbox.atlas.atlas_plan import AtlasPlan
from unbox.cli.model_options import NO_MODEL, Group, Mismatch, ModelOptions
from unbox.errors import UnboxError
from unbox.validation import FilePath, Name, Several, StorePlace, validated

if TYPE_CHECKING:
    from activation_store import Store
    from unbox.models import Model


@validated
class AtlasCommand:
    """Learn everything about the features of SAEs from an activation store, for the explorer.

    One pass over the store for each SAE. Stopped at any moment, the same line goes on. The text encoders of
    the model embed the captions, for search by meaning. Without --model it is the system that the store was
    recorded from; `--model none` leaves search by meaning out.
    """

    saes: FilePath
    """Folder of SAEs that `unbox train` wrote."""
    store: StorePlace
    """Folder of the store, or URL, whose images show what the features mean."""
    out: FilePath
    """Folder to write the atlas to."""
    blocks: Several[Name] = ()
    """Blocks whose SAEs are taken; none: all."""
    model_mismatch: Mismatch = "warn"
    plan: Group[AtlasPlan] = AtlasPlan()
    model: Group[ModelOptions] = NO_MODEL

    def run(self) -> None:
        from activation_store import Store
        from unbox.atlas import Atlas, Filter, build
        from unbox.model_mismatch import check_same_model
        from unbox.run_folder import check_writable
        from unbox.sae import load_saes
        from unbox.sae.distributed import local_device

        check_writable(self.out)
        store, saes = Store.open(self.store), load_saes(self.saes, local_device(self.model.device))
        chosen = {name: sae for name, sae in saes.items() if not self.blocks or sae.block in self.blocks}
        if not chosen:
            there = ", ".join(dict.fromkeys(sae.block for sae in saes.values()))
            asked = ", ".join(self.blocks)
            raise UnboxError(f"no SAE in {self.saes} is of {asked}; there are SAEs of {there}")
        model = self._encoders(store)
        check_same_model(chosen, model=model, store=store, policy=self.model_mismatch)
        build(store, chosen, self.out, plan=self.plan, model=model)
        atlas = Atlas.open(self.out)
        found = atlas.search("", Filter(labelled=True), limit=3, order="label score")
        print(f"{len(atlas):,} features of {', '.join(atlas.blocks)} in {self.out}")
        for facts in found:
            print(f"  {facts.name}: {facts.label}")
        kept = atlas.kept_labels()
        for sae, identity in dict.fromkeys((label.sae, label.identity) for label in kept):
            count = sum((label.sae, label.identity) == (sae, identity) for label in kept)
            print(f"Kept, not shown: {count} labels of {sae} as it was; they are back when that SAE is")
        print(f"Look at them: unbox app --saes {self.saes} --atlas {self.out}")

    def _encoders(self, store: "Store") -> "Model | None":
        """The model whose text encoders are used, or None, saying why."""
        if self.model.model == "none":
            return None
        if self.model.model:
            return self.model.load()
        name = store.provenance.get("model", {}).get("system", {}).get("name", "")
        try:
            return replace(self.model, model=name, offline=True).load()
        except UnboxError as error:
            print(f"Without search by meaning: {error}. Name the model with --model.")
            return None
