"""`unbox train`: fit sparse autoencoders to a store."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from activation_store import Store
    from unbox.sae import Plan


@dataclass(frozen=True)
class Train:
    """Fit sparse autoencoders to the updates in a store.

    Every combination of blocks, k, latents, variants and seeds is one SAE; all learn from one pass over the
    store. Stop it at any moment; the same line goes on from the last checkpoint, to the same bits.
    """

    store: Path
    """The store that `unbox collect` wrote."""
    out: Path
    """Folder for the SAEs, one folder each, and the run's records."""
    plan: Path | None = None
    """TOML file that declares the SAEs and the run, instead of the options below."""
    blocks: tuple[str, ...] = ()
    """Blocks, by short name; none: every block of the store."""
    k: tuple[int, ...] = (10,)
    """Active latents of a row."""
    latents: tuple[int, ...] = (5120,)
    """Numbers of latents n."""
    variant: tuple[Literal["topk", "batchtopk", "matryoshka", "multik"], ...] = ("topk",)
    """How winners are chosen, and what the loss nests."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the first directions."""
    lr: tuple[float, ...] = ()
    """Learning rates; none: 2e-4 / sqrt(latents / 16384), more in runs of under 10,000 steps."""
    tokens: int | None = None
    """Rows that each SAE sees; none: each row once. More than there are: several epochs."""
    batch_size: int = 4096
    """Rows of a step, over all processes."""
    warmup: int | None = None
    """Rows of linear warm-up; none: 5 % of the tokens, at most a million."""
    decay: int | None = None
    """Rows of linear decay at the end; none: 20 % of the tokens."""
    clip: float | None = None
    """Largest norm of an SAE's gradient; none: no clipping."""
    aux: float = 1 / 32
    """Coefficient of AuxK, which revives dead latents; 0: none."""
    dead_after: int | None = None
    """Rows of silence after which a latent is dead; none: 10 million, at most an eighth of the tokens."""
    centre: Literal["median", "mean"] = "median"
    """Where the pre-bias starts: geometric median or mean of 32,768 rows."""
    start: Literal["tied", "subspace"] = "tied"
    """First directions: uniform, or in the subspace that holds 99 % of the variance."""
    share: Literal["rows", "latents"] = "rows"
    """What processes under torchrun share: the rows of a batch, or the latents of each SAE, for large n."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the encoder's products; auto: bf16 where the processor multiplies it."""
    seed: int = 0
    """Of the order of the rows."""
    log_every: int | None = None
    """Rows between lines of metrics; none: a hundredth of the tokens."""
    checkpoint_every: int | None = None
    """Rows between checkpoints; none: a tenth of the tokens, at most 50 million."""
    held_out: float | None = None
    """Part of the images kept from training, for the figures; none: 2 %."""
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Where metrics go besides the folder's metrics.jsonl."""
    device: str | None = None
    """Torch device; none: a GPU if there is one."""
    resume: bool = False
    """Go on with the run recorded in the folder, whatever it was asked with: needs only --store and --out."""

    def run(self) -> int:
        """Train, and print each SAE's figures."""
        from activation_store import Store
        from unbox.sae import train

        store = Store.open(self.store)
        plan = None if self.resume else self._plan(store)
        saes = train(
            store,
            self.out,
            plan=plan,
            resume=self.resume,
            held_out=self.held_out,
            trackers=self.trackers,
            device=self.device,
        )
        for name, sae in saes.items():
            found = sae.meta["figures"]
            print(
                f"{self.out / name}: FVU {found['fvu']:.4f}, L0 {found['l0']:.1f}, "
                f"dead {found['dead_fraction']:.1%}, on {found['rows_from']}"
            )
        return 0

    def _plan(self, store: "Store") -> "Plan":
        from unbox.sae import Plan, read_toml, specs

        if self.plan is not None:
            return read_toml(self.plan)
        shared: dict[str, Any] = {
            f.name: getattr(self, f.name) for f in fields(Plan) if hasattr(self, f.name)
        }
        saes = specs(
            self.blocks or store.blocks,
            k=self.k,
            latents=self.latents,
            variant=self.variant,
            seed=self.seeds,
            lr=self.lr or None,
        )
        return Plan(**{**shared, "saes": saes})
