"""`unbox sae info | import | export | push | pull`."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import MinLen
from tyro.conf import Positional

from unbox.validation import FilePath, HubName, Name, StorePlace, Text, validated

if TYPE_CHECKING:
    from unbox.sae import SAE

Folder = Annotated[Positional[FilePath], tyro.conf.arg(help="Folder of SAEs, or of one.")]
#: Updates of a store that figures are measured on.
SAMPLED = 65_536
Layout = Literal["sdxl-unbox", "saelens", "sparsify", "dictionary-learning", "overcomplete", "directions"]


@validated
class SAEInfoCommand:
    """What a folder of SAEs holds: sizes, figures, how they were trained, where they came from."""

    saes: Folder

    def run(self) -> None:
        from unbox.sae import load_saes

        for name, sae in load_saes(self.saes).items():
            print("\n".join(describe(name, sae)))


@validated
class SAEImportCommand:
    """Read SAEs of another package and write them as ours.

    Nothing in the files is run; what cannot be read exactly is refused.
    """

    path: Positional[FilePath]
    """Folder of one of their SAEs, or of several."""
    out: FilePath
    """Folder for ours, one folder each."""
    format: Layout | None = None
    """Their layout; none: recognised by its files."""
    block: Name | None = None
    """Block of the SAE, where its folder does not say; for one SAE."""
    store: StorePlace | None = None
    """Folder of the store, or URL, on whose updates the latents' statistics and the updates' deviation are
    measured: for layouts that say neither (directions), without which no strength is in deviations."""

    def run(self) -> None:
        from unbox.run_folder import run_folder

        with run_folder(self.out, "sae import"):
            self._import()

    def _import(self) -> None:
        from unbox.errors import UnboxError
        from unbox.sae.interop import import_all
        from unbox.site import block_path

        found = import_all(self.path, self.format)
        if self.block is not None:
            block_path(self.block)
            if len(found) > 1:
                raise UnboxError(f"--block is for one SAE, {self.path} holds {len(found)}")
            found = {name: replace(sae, block=self.block) for name, sae in found.items()}
        if self.store is not None:
            found = {name: measured_on(self.store, sae) for name, sae in found.items()}
        blocks = [sae.block for sae in found.values()]
        for folder, sae in found.items():
            name = sae.block if sae.block and blocks.count(sae.block) == 1 else folder
            replace(sae, name=name).save(self.out / name)
            print(f"{self.out / name}: {sae.latents} latents, k {sae.k}, width {sae.width}")


@validated
class SAEExportCommand:
    """Write SAEs in another package's layout."""

    saes: Folder
    out: FilePath
    """Folder for theirs, one folder each."""
    format: Layout
    """Their layout."""

    def run(self) -> None:
        from unbox.run_folder import run_folder

        with run_folder(self.out, "sae export"):
            self._export()

    def _export(self) -> None:
        from unbox.sae import load_saes
        from unbox.sae.interop import export_sae, sdxl_unbox

        for name, sae in load_saes(self.saes).items():
            nested = self.format == "sdxl-unbox"
            folder = self.out / (f"{sdxl_unbox.folder_name(sae)}/final" if nested else name)
            folder.parent.mkdir(parents=True, exist_ok=True)
            export_sae(sae, folder, self.format)
            print(folder)


@validated
class SAEPushCommand:
    """Upload SAEs to the Hugging Face Hub, each with its card."""

    saes: Folder
    repo: Positional[HubName]
    """owner/name on the Hub; made if it is not there."""
    private: bool = False
    """Make it readable to its owner only."""

    def run(self) -> None:
        from unbox.sae.hub import push

        print(push(self.saes, self.repo, self.private))


@validated
class SAEPullCommand:
    """Download SAEs from the Hugging Face Hub."""

    repo: Positional[HubName]
    """owner/name on the Hub."""
    out: FilePath
    """Folder for them."""
    revision: Annotated[Text, MinLen(1)] | None = None
    """Branch, tag or commit."""

    def run(self) -> None:
        from unbox.run_folder import run_folder
        from unbox.sae.hub import pull

        with run_folder(self.out, "sae pull") as folder:
            folder.claim({"repo": self.repo}, {"revision": self.revision})
            for name, sae in pull(self.repo, self.out, self.revision).items():
                print("\n".join(describe(name, sae)))


def measured_on(store: str, sae: "SAE") -> "SAE":
    """An SAE with figures of a sample of a store's updates, whose mean is theirs where it has none."""
    import torch

    from activation_store import Store
    from unbox.sae.direction_set import measured

    rows = torch.from_numpy(Store.open(store)[sae.block].sample(SAMPLED))
    centred = sae if bool(sae.b_pre.any()) else replace(sae, b_pre=rows.mean(0))
    return measured(centred, rows)


def describe(name: str, sae: "SAE") -> list[str]:
    """Lines about one SAE."""
    chosen = f"k {sae.k}" if sae.threshold is None else f"over a threshold, k {sae.k} on average"
    lines = [f"{name}: {sae.latents} latents of width {sae.width}, {chosen}"]
    figures, training = sae.meta.get("figures") or {}, sae.meta.get("training") or {}
    measured = [key for key in ("fvu", "l0", "dead_fraction", "dense_fraction") if key in figures]
    if shown := [f"{key} {figures[key]:.4g}" for key in measured]:
        lines.append(f"  on {figures.get('rows_from', 'rows')}: {', '.join(shown)}")
    if options := [
        f"{key} {training[key]}" for key in ("variant", "tokens", "lr", "seed") if key in training
    ]:
        lines.append(f"  trained with {', '.join(options)}")
    if source := sae.meta.get("imported"):
        lines.append(f"  imported from {source['format']}, {source['folder']}")
    return lines
