"""`unbox recipe real-size`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class RecipeRealSizeCommand:
    """Write SDXL's real architecture with random weights as a diffusers folder.

    For trying hardware and pipelines before anything is downloaded. The images are noise. About 7 GB in
    bfloat16; memory stays small while writing.
    """

    out: Path
    """Folder to write; it must not exist."""
    architecture: Literal["base", "refiner"] = "base"
    """SDXL's base (2.57 billion parameters in the UNet) or its refiner (2.26 billion)."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type of the stored weights."""
    seed: int = 0
    """Seed of the weights."""

    def run(self) -> None:
        import torch

        from unbox.models.real_size import write_random

        folder = write_random(self.out, self.architecture, getattr(torch, self.dtype), self.seed, True)
        refine = "--image IMAGE.png --steps 4" if self.architecture == "refiner" else "--steps 1"
        print(
            f"wrote {folder}; its images are noise. Try:\n"
            f"  unbox generate --model {folder} --prompt test {refine} --height 512 --width 512"
        )
