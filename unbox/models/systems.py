"""A system is one way to generate, as a row of data: weights, scheduler, steps, guidance, prediction, size.

The rows are in `unbox.models.system_table`; a diffusers folder may carry its own row as `system.json`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from activation_store.files import read_json, write_json
from unbox.errors import UnboxError
from unbox.json_types import JSON

#: Beginning of the `base` of a model that comes with the package.
BUNDLED = "bundled:"
#: File that makes a folder a diffusers pipeline.
PIPELINE_FILE = "model_index.json"
#: File beside it that says how the folder's weights are sampled.
SYSTEM_FILE = "system.json"


@dataclass(frozen=True)
class Part:
    """Weights put over the base: kind `unet` or `lora`, a repository's file ("": its folder), bytes."""

    kind: str
    repo: str
    file: str
    bytes: int = 0


@dataclass(frozen=True)
class System:
    """One way to generate. `timesteps` fixes the grid per step count."""

    name: str
    title: str
    base: str | None
    """Hub id of the diffusers pipeline, `bundled:NAME`, or None when the user names the checkpoint."""
    scheduler: str = "EulerDiscreteScheduler"
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    """Configuration over the one shipped with the weights."""
    prediction: str = "epsilon"
    steps: int = 30
    step_counts: tuple[int, ...] | None = None
    """Step counts that the weights were trained for; None: any."""
    timesteps: Mapping[int, tuple[int, ...]] | None = None
    guidance: float = 5.0
    distilled: bool = False
    """Guidance is distilled into the weights: sampled without classifier-free guidance."""
    size: int | None = 1024
    """Side of the native square image in pixels; None: what the UNet's configuration says."""
    parts: tuple[Part, ...] = ()
    refiner: str | None = None
    """Hub id of the refiner of an ensemble; `split` is the fraction of the schedule done by the base."""
    split: float | None = None
    image_to_image: bool = False
    bytes: int = 0
    """Size of the base in half precision."""
    refiner_bytes: int = 0
    """Size of the refiner in half precision."""
    paper: str = ""
    licence: str = ""
    verified: str = "settings and sampler, with random weights"
    """What was run in this project."""

    @property
    def download(self) -> int:
        """Bytes fetched when nothing is present."""
        return sum(size for _, _, size in self.needs)

    @property
    def needs(self) -> list[tuple[str, str, int]]:
        """What is on the Hub: repository, file in it ("": a folder), bytes."""
        found = [(part.repo, part.file, part.bytes) for part in self.parts]
        if self.refiner:
            found.insert(0, (self.refiner, PIPELINE_FILE, self.refiner_bytes))
        if self.base and not self.base.startswith(BUNDLED):
            found.insert(0, (self.base, PIPELINE_FILE, self.bytes))
        return found

    def grid(self, steps: int) -> tuple[int, ...] | None:
        """The timesteps that the row fixes for so many steps; None where the scheduler lays them."""
        return (self.timesteps or {}).get(steps)

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, JSON], source: str) -> "System":
        """A row read back. Raises UnboxError, naming `source`, for unknown or missing fields."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(row) - known)
        if unknown or not {"name", "title", "base"} <= set(row):
            found = f"unknown {', '.join(unknown)}; " if unknown else ""
            rest = f"needs name, title and base; may have {', '.join(sorted(known))}"
            raise UnboxError(f"{source} is not a system: {found}{rest}")
        values: dict[str, Any] = dict(row)
        values["parts"] = tuple(Part(**part) for part in values.get("parts", ()))
        if row.get("timesteps"):
            values["timesteps"] = {int(n): tuple(t) for n, t in values["timesteps"].items()}
        if row.get("step_counts"):
            values["step_counts"] = tuple(values["step_counts"])
        return cls(**values)

    def save(self, folder: Path) -> Path:
        """Write the row beside a pipeline's `model_index.json`, so that `load(folder)` samples it so."""
        write_json(path := Path(folder) / SYSTEM_FILE, self.to_json())
        return path


def folder_system(folder: Path) -> System | None:
    """The row that a diffusers folder carries, or None."""
    path = Path(folder) / SYSTEM_FILE
    return System.from_json(read_json(path), str(path)) if path.is_file() else None
