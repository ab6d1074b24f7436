"""What is to be trained, as values: a `Spec` for each SAE, a `Plan` for the run. JSON and TOML both ways."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from unbox.errors import FieldError, UnboxError
from unbox.former_names import as_written, renamed
from unbox.json_types import JSON
from unbox.memory_limit import require
from unbox.text_files import read_toml_file
from unbox.validation import Amount, Count, Name, Positive, Real, Seed, Several, Whole, parsed, validated

#: Value of an option of a plan or an SAE.
Option = bool | int | float | str | tuple[int, ...] | None
#: One value, or one for each SAE.
Options = Option | Sequence[Option] | Sequence[Sequence[int]]

Centre = Literal["median", "mean"]
FirstDirections = Literal["tied", "subspace"]
Share = Literal["rows", "latents"]
Precision = Literal["auto", "bf16", "fp32"]
#: Names of the rows of `VARIANTS`, which needs torch; options are read without.
VariantName = Literal["topk", "batchtopk", "matryoshka", "multik", "jumprelu", "gated"]
LearningRate = Annotated[Real, Gt(0), Lt(1)]
#: Rows, of at least one.
RowCount = Annotated[Whole, Ge(1), Lt(2**50)]
#: Names of options that were others: as keywords, in TOML, and for ever in JSON.
FORMER = {"clip": "clip_norm", "start": "init"}
#: Rows a latent may be silent for before it counts as dead, at most (the paper's number).
DEAD_AFTER = 10_000_000
#: Arrays of latents x width that an SAE in training is (weights, two moments of each, the encoder in low
#: precision, gradients), of one SAE at a time while its gradient's norm is taken, bytes of a number, of an
#: active entry of a batch, and of a spec in a grid.
ARRAYS, MEASURED, NUMBER_BYTES, ENTRY_BYTES, SPEC_BYTES = 8, 2, 4, 24, 1024
#: Variants whose steps are dense in slices of rows, how many arrays of a slice, and numbers of one on a CPU.
LEARNT_THRESHOLDS, SLICED, SLICE = ("jumprelu", "gated"), 10, 1 << 21


@validated
class Spec:
    """One SAE."""

    block: Name | Literal[""] = ""
    """Block whose rows it is fitted to."""
    k: Count = 10
    """Active latents of a row."""
    latents: Count = 5120
    """Number of latents n."""
    variant: VariantName = "topk"
    """A row of `VARIANTS`: topk, batchtopk, matryoshka, multik, jumprelu, gated."""
    levels: Several[Count] = ()
    """Matryoshka: sizes of the nested prefixes; multik: the nested numbers of active ones. Empty: usual."""
    seed: Seed = 0
    """Of the first directions."""
    lr: LearningRate | None = None
    """Adam's learning rate; None: see `learning_rate.peak`."""

    def __post_init__(self) -> None:
        if self.k > self.latents:
            raise FieldError("", "k", self.k, f"k is at most the latents, {self.latents:,}")
        from unbox.sae.variants import variant  # needs torch; options are read without

        levels = variant(self.variant).levels(self.levels, self.k, self.latents)
        object.__setattr__(self, "levels", levels)

    @property
    def title(self) -> str:
        """Name that tells it from others: `up.0.1_k10_n5120`, with variant and seed where unusual."""
        parts = [self.block or "rows", f"k{self.k}", f"n{self.latents}"]
        parts += [self.variant] * (self.variant != "topk") + [f"s{self.seed}"] * (self.seed != 0)
        return "_".join(parts + ([f"lr{self.lr:g}"] if self.lr is not None else []))


@dataclass(frozen=True)
class Budget:
    """Amounts of one block's training, in rows. The fields are those of `Plan`."""

    tokens: int
    batch_size: int
    warmup: int
    decay: int
    dead_after: int
    log_every: int
    checkpoint_every: int


@validated
class SpecGrid:
    """Every combination of these is one SAE."""

    blocks: Several[Name] = ()
    """Blocks whose rows SAEs are fitted to; none: every block of the store."""
    k: Several[Count] = (10,)
    """Active latents of a row."""
    latents: Several[Count] = (5120,)
    """Latents n of an SAE."""
    variant: Several[VariantName] = ("topk",)
    """How active latents are chosen, and what the loss nests."""
    seeds: Several[Seed] = (0,)
    """Seeds of the first directions."""
    lr: Several[LearningRate] = ()
    """Adam's learning rates; none: 2e-4 / sqrt(latents / 16384), more in runs of under 10,000 steps."""

    def specs(self, blocks: Sequence[str]) -> "tuple[Spec, ...]":
        """The SAEs, of `blocks` where none are named."""
        lists: dict[str, Options] = {"k": self.k, "latents": self.latents, "variant": self.variant}
        return specs(self.blocks or blocks, **lists, seed=self.seeds, lr=self.lr or None)


@validated
class TrainSettings:
    """How the SAEs of a run are trained. Amounts are in rows ("tokens")."""

    tokens: RowCount | None = None
    """Rows that each SAE sees; None: each row once. More than there are: several epochs."""
    batch_size: Count = 4096
    """Rows of a step, over all processes."""
    seed: Seed = 0
    """Seed of the order of the rows."""
    warmup: Amount | None = None
    """Rows of linear warm-up; None: 5 % of the tokens, at most a million."""
    decay: Amount | None = None
    """Rows of linear decay to 0 at the end; None: 20 % of the tokens."""
    clip_norm: Positive | None = None
    """Largest norm of an SAE's gradient; None: no clipping."""
    max_norm: Positive | None = None
    """Rows of a norm over so many times the median are left out; None: none, those over ten times counted."""
    aux: Annotated[Real, Ge(0), Lt(10)] = 1 / 32
    """Coefficient of AuxK, which revives dead latents; 0: none."""
    aux_k: Count | None = 256
    """Active among the dead in AuxK (kappa), at most; None: half the width of a row."""
    dead_after: RowCount | None = None
    """Rows of silence after which a latent is dead; None: 10 million, at most an eighth of the tokens."""
    freeze_encoder: bool = False
    """Train the decoder alone: the rest stays, to the bit, that of the SAEs begun from (init_from)."""
    centre: Centre = "median"
    """Where b_pre starts: geometric median or mean of 32,768 rows."""
    init: FirstDirections = "tied"
    """First directions: uniform (tied), or in the subspace that holds 99 % of the variance."""
    scaled: bool = True
    """Whether training scales rows to a root mean square of 1, which is folded away at the end."""
    share: Share = "rows"
    """What processes under torchrun share: the rows of a batch, or the latents of each SAE, for large n."""
    precision: Precision = "auto"
    """Type of the encoder's products: bf16, fp32, or auto: bf16 where the processor multiplies it."""
    log_every: RowCount | None = None
    """Rows between lines of metrics; None: a hundredth of the tokens."""
    checkpoint_every: RowCount | None = None
    """Rows between checkpoints; None: a tenth of the tokens, at most 50 million."""

    def kappa(self, width: int) -> int:
        """Dead latents that are active in AuxK at most, for rows of a width."""
        return self.aux_k or max(1, width // 2)

    def budget(self, rows: int) -> "Budget":
        """The plan's amounts for a block of `rows` rows, with every None filled in."""
        tokens = self.tokens or rows
        usual = {
            "warmup": min(tokens // 20, 1_000_000),
            "decay": tokens // 5,
            "dead_after": min(DEAD_AFTER, max(1, tokens // 8)),
            "log_every": max(1, tokens // 100),
            "checkpoint_every": max(1, min(tokens // 10, 50_000_000)),
        }
        amounts = {k: v if getattr(self, k) is None else getattr(self, k) for k, v in usual.items()}
        return Budget(tokens, self.batch_size, **amounts)


@validated
class Plan(TrainSettings):
    """One run: SAEs trained together on one pass over the rows."""

    saes: Several[Spec] = ()

    def names(self) -> list[str]:
        """A folder's name for each SAE: its block where that tells it apart, else its title."""
        blocks = [spec.block for spec in self.saes]
        names = [s.block if s.block and blocks.count(s.block) == 1 else s.title for s in self.saes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UnboxError(f"{', '.join(twice)}: asked for more than once; SAEs of a run must differ")
        return names

    def to_json(self) -> dict[str, Any]:
        """JSON object of every field; as versions before wrote it where what is new is not asked for."""
        value = as_written(asdict(self), FORMER)
        for name in ("max_norm", "aux_k"):
            if value[name] is None:
                del value[name]
        if not self.freeze_encoder:
            del value["freeze_encoder"]
        value["saes"] = [{**asdict(s), "levels": list(s.levels)} for s in self.saes]
        return value

    @classmethod
    def from_json(cls, value: JSON, door: str = "a plan") -> "Plan":
        """Inverse of `to_json`; raises UnboxError, naming `door`, for what is not a plan."""
        saes = value.get("saes", ()) if isinstance(value, Mapping) else ()
        if not isinstance(saes, Sequence) or isinstance(saes, str):
            raise FieldError(door, "saes", saes, "should be a list of SAEs")
        found = [parsed(Spec, sae, f"{door}: saes[{i}]") for i, sae in enumerate(saes)]
        # Plans written before there was a choice had half the width.
        return parsed(
            cls,
            {"aux_k": None, **value, "saes": found} if isinstance(value, Mapping) else value,
            door,
            FORMER,
        )

    def memory(self, widths: Mapping[str, int], processes: int = 1) -> int:
        """Bytes that training takes at most in each of `processes`, the rows' `widths` d by block given."""
        shared = processes if self.share == "latents" else 1
        sizes = [-(-spec.latents // shared) * widths[spec.block] for spec in self.saes]
        weights = ARRAYS * sum(sizes) + MEASURED * max(sizes, default=0)
        rows = self.batch_size if shared > 1 else -(-self.batch_size // processes)
        widest, most = max(widths.values(), default=0), max((spec.k for spec in self.saes), default=0)
        dense = [
            min(rows * s.latents, SLICE) + s.latents for s in self.saes if s.variant in LEARNT_THRESHOLDS
        ]
        sliced = SLICED * max(dense, default=0)
        return (weights + rows * widest + sliced) * NUMBER_BYTES + rows * most * ENTRY_BYTES


def make_plan(saes: Sequence[Spec], **options: Option) -> Plan:
    """A plan of some SAEs with options of `Plan`; raises UnboxError for an option that it does not have."""
    return parsed(Plan, {**renamed(options, FORMER, warn=True), "saes": saes}, "training")


def specs(
    blocks: Sequence[str], **lists: Option | Sequence[Option] | Sequence[Sequence[int]]
) -> tuple[Spec, ...]:
    """Every combination: `specs(["mid.0"], k=[5, 10], latents=5120)`; no list is one value."""
    return _combinations({"block": list(blocks), **lists}, "Spec")


def read_toml(path: str | Path) -> Plan:
    """A plan from TOML: keys of `Plan` at the top, one `[[sae]]` table each with keys of `Spec`.

    In an `[[sae]]`, a list means one SAE for each of its values; `block` may be a list too. (`levels` is a
    list by nature: a list of lists there.) A table `[images]`, of rows without a store, is not read here.
    """
    value = read_toml_file(path)
    value.pop("images", None)  # `unbox.online.read_images` reads it: of rows that are generated
    if "saes" in value:
        raise FieldError(str(path), "saes", value["saes"], "SAEs are tables, each headed [[sae]]")
    tables = value.pop("sae", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise FieldError(str(path), "sae", tables, "SAEs are tables, each headed [[sae]]")
    found: list[Spec] = []
    for number, table in enumerate(tables, 1):
        found += _combinations(table, f"{path}: [[sae]] {number}")
    plan: Plan = parsed(Plan, {**value, "saes": found}, str(path), FORMER)
    if not found:
        raise UnboxError(f"{path} declares no SAE: each is a table headed [[sae]], with block, k and latents")
    return plan


def _combinations(options: Mapping[str, Options], door: str) -> tuple[Spec, ...]:
    """The SAEs of lists of options; FieldErrors are of `door`."""
    columns = {name: _listed(name, value) for name, value in options.items()}
    if empty := next((name for name, column in columns.items() if not column), None):
        raise FieldError(door, empty, [], "should hold at least one value")
    count = prod(len(column) for column in columns.values())
    require(count * SPEC_BYTES, f"a grid of {count:,} SAEs", door)
    rows = itertools.product(*columns.values())
    return tuple(parsed(Spec, dict(zip(columns, row, strict=True)), door) for row in rows)


def _listed(name: str, value: Any) -> list[Any]:
    if name == "levels":
        nested = isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple)
        return list(value) if nested else [value]
    return list(value) if isinstance(value, list | tuple) else [value]
