"""A system is one way to generate, as a row of data: weights, scheduler, steps, guidance, prediction, size.

The rows are in `unbox.models.system_table`; a diffusers folder may carry its own row as `system.json`.
"""

from collections.abc import Mapping
from dataclasses import asdict, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Gt, Lt
from pydantic import BeforeValidator, PlainValidator

from activation_store.files import canonical, read_json, write_json
from unbox.errors import FieldError
from unbox.json_types import JSON
from unbox.validation import (
    Amount,
    Guidance,
    Real,
    Several,
    Share,
    Side,
    StepIndex,
    Steps,
    Text,
    parsed,
    validated,
)

#: Beginning of the `base` of a model that comes with the package.
BUNDLED = "bundled:"
#: File that makes a folder a diffusers pipeline.
PIPELINE_FILE = "model_index.json"
#: File beside it that says how the folder's weights are sampled.
SYSTEM_FILE = "system.json"


#: Components that the refiner of an ensemble has from its base.
SHARED = ("vae", "text_encoder_2")


def _config(value: object) -> object:
    """A scheduler's configuration: an object of values that JSON can hold, none of them NaN or infinite."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError("should be an object with keys")
    try:
        canonical(value)
    except (TypeError, ValueError):
        raise ValueError("should hold texts, finite numbers, lists and objects alone") from None
    return value


def _grids(value: object) -> object:
    """Step counts are texts in JSON."""
    if not isinstance(value, Mapping):
        return value
    return {int(k) if isinstance(k, str) and k.isdecimal() else k: steps for k, steps in value.items()}


#: Step count -> the scheduler's timesteps.
Grids = Annotated[dict[Steps, Several[StepIndex]], BeforeValidator(_grids)]


@validated
class Part:
    """Weights put over the base: kind `unet` or `lora`, a repository's file ("": its folder; `bundled:NAME`:
    one of the package's), bytes."""

    kind: Literal["unet", "lora"]
    repo: Text
    file: Text
    bytes: Amount = 0


class Need(NamedTuple):
    """What a system needs of a repository on the Hub."""

    repo: str
    file: str
    """Its name; "": the folder; `model_index.json`: the pipeline."""
    bytes: int
    without: tuple[str, ...] = ()
    """Components of the pipeline whose weights come from elsewhere."""


#: Fields that came later -> what rows of before are without them.
LATER = {"guidance_limit": 1.0, "guidance_embedded": False, "eta": None, "unet_bytes": 0}


@validated
class System:
    """One way to generate. `timesteps` fixes the grid per step count."""

    name: Text
    title: Text
    base: Text | None
    """Hub id of the diffusers pipeline, `bundled:NAME`, or None when the user names the checkpoint."""
    scheduler: Text = "EulerDiscreteScheduler"
    scheduler_config: Annotated[Mapping[str, Any], PlainValidator(_config)] = field(default_factory=dict)
    """Configuration over the one shipped with the weights."""
    prediction: Literal["epsilon", "v_prediction", "sample", ""] = "epsilon"
    """"": what the checkpoint's own configuration says; so for `scheduler`."""
    steps: Steps = 30
    step_counts: Several[Steps] | None = None
    """Step counts that the weights were trained for; None: any."""
    timesteps: Grids | None = None
    guidance: Guidance = 5.0
    distilled: bool = False
    """Guidance is distilled into the weights: sampled without classifier-free guidance."""
    guidance_limit: Guidance = 1.0
    """The largest scale that authors of distilled weights recommend on top; above it a warning is given."""
    guidance_embedded: bool = False
    """The UNet reads the scale itself (LCM): one forward a step at any scale, no negative prompts."""
    eta: Share | None = None
    """Share of fresh noise in a step: DDIM's eta, TCD's gamma; None: the pipeline's, 0."""
    size: Side | None = 1024
    """Side of the native square image in pixels; None: what the UNet's configuration says."""
    parts: Several[Part] = ()
    refiner: Text | None = None
    """Hub id of the refiner of an ensemble; `split` is the fraction of the schedule done by the base."""
    split: Annotated[Real, Gt(0), Lt(1)] | None = None
    image_to_image: bool = False
    bytes: Amount = 0
    """Size of the base in half precision."""
    unet_bytes: Amount = 0
    """Of which its UNet's, which is not fetched where a part takes its place."""
    refiner_bytes: Amount = 0
    """Size in half precision of the ensemble's refiner: its UNet, the rest is the base's."""
    paper: Text = ""
    licence: Text = ""
    verified: Text = "settings and sampler, with random weights"
    """What was run in this project."""

    def __post_init__(self) -> None:
        if (self.refiner is None) != (self.split is None):
            raise FieldError("", "split", self.split, "should be given where a refiner is, and only there")
        for count, grid in (self.timesteps or {}).items():
            if len(grid) != count or any(a <= b for a, b in pairwise(grid)):
                raise FieldError("", f"timesteps[{count}]", grid, f"should be {count} falling timesteps")

    @property
    def download(self) -> int:
        """Bytes fetched when nothing is present."""
        return sum(need.bytes for need in self.needs)

    @property
    def replaced(self) -> tuple[str, ...]:
        """Components of the base in whose place a part comes: their weights are neither fetched nor read."""
        return ("unet",) if any(part.kind == "unet" for part in self.parts) else ()

    @property
    def needs(self) -> list[Need]:
        """What is on the Hub."""
        parts = [part for part in self.parts if not part.repo.startswith(BUNDLED)]
        found = [Need(part.repo, part.file, part.bytes) for part in parts]
        if self.refiner:
            found.insert(0, Need(self.refiner, PIPELINE_FILE, self.refiner_bytes, SHARED))
        if self.base and not self.base.startswith(BUNDLED):
            size = self.bytes - (self.unet_bytes if self.replaced else 0)
            found.insert(0, Need(self.base, PIPELINE_FILE, size, self.replaced))
        return found

    def grid(self, steps: int) -> tuple[int, ...] | None:
        """The timesteps that the row fixes for so many steps; None where the scheduler lays them."""
        return (self.timesteps or {}).get(steps)

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values. Fields that rows did not always have are there where they say something,
        so that what was named by a row of before is found again."""
        row = asdict(self)
        return {name: value for name, value in row.items() if LATER.get(name, ...) != value}

    @classmethod
    def from_json(cls, row: JSON, source: str) -> "System":
        """A row read back. Raises FieldError, naming `source`, for fields unknown, missing or wrong."""
        parts = row.get("parts") if isinstance(row, Mapping) else None
        if isinstance(row, Mapping) and isinstance(parts, list):
            read = [parsed(Part, part, f"{source}: parts") for part in parts]
            return parsed(cls, {**row, "parts": read}, source)
        return parsed(cls, row, source)

    def save(self, folder: Path) -> Path:
        """Write the row beside a pipeline's `model_index.json`, so that `load(folder)` samples it so."""
        write_json(path := Path(folder) / SYSTEM_FILE, self.to_json())
        return path


def folder_system(folder: Path) -> System | None:
    """The row that a diffusers folder carries, or None."""
    path = Path(folder) / SYSTEM_FILE
    return System.from_json(read_json(path), str(path)) if path.is_file() else None
