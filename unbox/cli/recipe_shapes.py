"""`unbox recipe shapes-turbo`: train the bundled models again, from nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Stage = Literal["vae", "text", "base", "pairs", "turbo", "detector"]


@dataclass(frozen=True)
class RecipeShapesTurboCommand:
    """Train shapes-base, shapes-turbo and the factor detector; stop at any time, the same line goes on."""

    out: Path
    """Folder for checkpoints (resumed where there are any) and the finished models."""
    stages: tuple[Stage, ...] = ("vae", "text", "base", "pairs", "turbo", "detector")
    """Stages to run; each needs those before it, the detector none."""
    base_minutes: float | None = None
    """Minutes for the many-step model instead of the recipe's own."""
    turbo_minutes: float | None = None
    """Minutes for the few-step finish instead of the recipe's own."""
    threads: int | None = None
    """CPU threads; two that compete with anything else are slower than one."""
    captions: int = 512
    """Held-out captions that the model cards measure accuracy on."""

    def run(self) -> None:
        import torch

        from unbox.recipes.shapes import recipe

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        made = recipe.ShapesRecipe(self.out).with_minutes(base=self.base_minutes, turbo=self.turbo_minutes)
        for stage in self.stages:
            recipe.STAGES[stage](made)
        if {"base", "turbo", "detector"} <= set(self.stages):
            for folder in recipe.finish(made, self.captions):
                print(f"wrote {folder}")
