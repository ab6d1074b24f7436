"""What is to be trained, as values: a `Spec` for each SAE, a `Plan` for the run. JSON and TOML both ways."""

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from unbox.errors import UnboxError
from unbox.former_names import as_written, renamed
from unbox.json_types import JSON

#: Value of an option of a plan or an SAE.
Option = bool | int | float | str | tuple[int, ...] | None
#: One value, or one for each SAE.
Options = Option | Sequence[Option] | Sequence[Sequence[int]]

Centre = Literal["median", "mean"]
FirstDirections = Literal["tied", "subspace"]
Share = Literal["rows", "latents"]
Precision = Literal["auto", "bf16", "fp32"]
#: Names of options that were others: as keywords, in TOML, and for ever in JSON.
FORMER = {"clip": "clip_norm", "start": "init"}
#: Rows a latent may be silent for before it counts as dead, at most (the paper's number).
DEAD_AFTER = 10_000_000


@dataclass(frozen=True)
class Spec:
    """One SAE."""

    block: str = ""
    """Block whose rows it is fitted to."""
    k: int = 10
    """Active latents of a row."""
    latents: int = 5120
    """Number of latents n."""
    variant: str = "topk"
    """A row of `VARIANTS`: topk, batchtopk, matryoshka, multik."""
    levels: tuple[int, ...] = ()
    """Matryoshka: sizes of the nested prefixes; multik: the nested numbers of active ones. Empty: usual."""
    seed: int = 0
    """Of the first directions."""
    lr: float | None = None
    """Adam's learning rate; None: see `learning_rate.peak`."""

    def __post_init__(self) -> None:
        _check_numbers(self, {"k": 1, "latents": 1, "seed": 0})
        if self.k > self.latents:
            raise UnboxError(f"k = {self.k} active of {self.latents} latents: k is at most the latents")
        if self.lr is not None and not 0 < self.lr < 1:
            raise UnboxError(f"lr = {self.lr} is not between 0 and 1")
        from unbox.sae.variants import variant  # needs torch; options are read without

        levels = tuple(int(level) for level in self.levels)
        object.__setattr__(self, "levels", variant(self.variant).levels(levels, self.k, self.latents))

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


@dataclass(frozen=True)
class SpecGrid:
    """Every combination of these is one SAE."""

    blocks: tuple[str, ...] = ()
    """Blocks whose rows SAEs are fitted to; none: every block of the store."""
    k: tuple[int, ...] = (10,)
    """Active latents of a row."""
    latents: tuple[int, ...] = (5120,)
    """Latents n of an SAE."""
    variant: tuple[Literal["topk", "batchtopk", "matryoshka", "multik"], ...] = ("topk",)
    """How active latents are chosen, and what the loss nests."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the first directions."""
    lr: tuple[float, ...] = ()
    """Adam's learning rates; none: 2e-4 / sqrt(latents / 16384), more in runs of under 10,000 steps."""

    def specs(self, blocks: Sequence[str]) -> "tuple[Spec, ...]":
        """The SAEs, of `blocks` where none are named."""
        lists: dict[str, Options] = {"k": self.k, "latents": self.latents, "variant": self.variant}
        return specs(self.blocks or blocks, **lists, seed=self.seeds, lr=self.lr or None)


@dataclass(frozen=True)
class TrainSettings:
    """How the SAEs of a run are trained. Amounts are in rows ("tokens")."""

    tokens: int | None = None
    """Rows that each SAE sees; None: each row once. More than there are: several epochs."""
    batch_size: int = 4096
    """Rows of a step, over all processes."""
    seed: int = 0
    """Seed of the order of the rows."""
    warmup: int | None = None
    """Rows of linear warm-up; None: 5 % of the tokens, at most a million."""
    decay: int | None = None
    """Rows of linear decay to 0 at the end; None: 20 % of the tokens."""
    clip_norm: float | None = None
    """Largest norm of an SAE's gradient; None: no clipping."""
    aux: float = 1 / 32
    """Coefficient of AuxK, which revives dead latents; 0: none."""
    dead_after: int | None = None
    """Rows of silence after which a latent is dead; None: 10 million, at most an eighth of the tokens."""
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
    log_every: int | None = None
    """Rows between lines of metrics; None: a hundredth of the tokens."""
    checkpoint_every: int | None = None
    """Rows between checkpoints; None: a tenth of the tokens, at most 50 million."""

    def __post_init__(self) -> None:
        optional = ("tokens", "warmup", "decay", "dead_after", "log_every", "checkpoint_every")
        floors = {name: 0 if name in ("warmup", "decay") else 1 for name in optional}
        _check_numbers(self, {"batch_size": 1, "seed": 0, **floors}, optional)
        choices = {"precision": Precision, "share": Share, "centre": Centre, "init": FirstDirections}
        for name, known in choices.items():
            if getattr(self, name) not in get_args(known):
                raise UnboxError(f"no {name} '{getattr(self, name)}'; there are {', '.join(get_args(known))}")
        if not 0 <= self.aux < 10:
            raise UnboxError(f"aux = {self.aux}: the coefficient of AuxK is from 0 to 10")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UnboxError(f"clip_norm = {self.clip_norm}: the largest norm of a gradient is over 0")

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


@dataclass(frozen=True)
class Plan(TrainSettings):
    """One run: SAEs trained together on one pass over the rows."""

    saes: tuple[Spec, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "saes", tuple(self.saes))
        super().__post_init__()

    def names(self) -> list[str]:
        """A folder's name for each SAE: its block where that tells it apart, else its title."""
        blocks = [spec.block for spec in self.saes]
        names = [s.block if s.block and blocks.count(s.block) == 1 else s.title for s in self.saes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UnboxError(f"{', '.join(twice)}: asked for more than once; SAEs of a run must differ")
        return names

    def to_json(self) -> dict[str, Any]:
        """JSON object of every field."""
        value = as_written(asdict(self), FORMER)
        value["saes"] = [{**asdict(s), "levels": list(s.levels)} for s in self.saes]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, JSON]) -> "Plan":
        """Inverse of `to_json`; raises UnboxError for what is not a plan."""
        known = _known(cls, value, "a plan")
        return cls(**{**known, "saes": tuple(_spec(s) for s in known.get("saes", ()))})


def make_plan(saes: Sequence[Spec], **options: Option) -> Plan:
    """A plan of some SAEs with options of `Plan`; raises UnboxError for an option that it does not have."""
    options = renamed(options, FORMER, warn=True)
    return Plan(**{**_known(Plan, options, "training"), "saes": tuple(saes)})


def specs(
    blocks: Sequence[str], **lists: Option | Sequence[Option] | Sequence[Sequence[int]]
) -> tuple[Spec, ...]:
    """Every combination: `specs(["mid.0"], k=[5, 10], latents=5120)`; no list is one value."""
    columns = {"block": list(blocks), **{name: _listed(name, value) for name, value in lists.items()}}
    return tuple(Spec(**dict(zip(columns, row, strict=True))) for row in itertools.product(*columns.values()))


def read_toml(path: str | Path) -> Plan:
    """A plan from TOML: keys of `Plan` at the top, one `[[sae]]` table each with keys of `Spec`.

    In an `[[sae]]`, a list means one SAE for each of its values; `block` may be a list too. (`levels` is a
    list by nature: a list of lists there.)
    """
    try:
        with open(path, "rb") as file:
            value = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnboxError(f"{path} is not valid TOML: {error}") from None
    tables = value.pop("sae", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UnboxError(f"{path}: SAEs are tables, each headed [[sae]]")
    found: tuple[Spec, ...] = ()
    for table in tables:
        known = _known(Spec, table, f"an [[sae]] of {path}")
        blocks = _listed("block", known.pop("block", ""))
        found += specs(blocks, **known)
    return Plan(**{**_known(Plan, value, str(path)), "saes": found})


def _listed(name: str, value: Any) -> list[Any]:
    if name == "levels":
        return list(value) if value and isinstance(value[0], list | tuple) else [tuple(value)]
    return list(value) if isinstance(value, list | tuple) else [value]


def _spec(value: JSON) -> Spec:
    known = _known(Spec, value, "an SAE of a plan")
    return Spec(**{**known, "levels": tuple(known.get("levels", ()))})


def _known(kind: type[Plan] | type[Spec], value: JSON, where: str) -> dict[str, Any]:
    """`value` as keyword arguments of a dataclass; raises UnboxError for keys that it does not have."""
    if not isinstance(value, Mapping):
        raise UnboxError(f"{where} is not an object with keys")
    value, names = renamed(value, FORMER), [f.name for f in fields(kind)]
    unknown = sorted(set(value) - set(names))
    if unknown:
        raise UnboxError(f"{where} has no option {', '.join(unknown)}; there are {', '.join(names)}")
    return value


def _check_numbers(
    value: TrainSettings | Spec, floors: Mapping[str, int], optional: Sequence[str] = ()
) -> None:
    for name, floor in floors.items():
        number = getattr(value, name)
        if number is None and name in optional:
            continue
        if isinstance(number, bool) or not isinstance(number, int) or number < floor:
            raise UnboxError(f"{name} = {number!r} is not a whole number of at least {floor}")
