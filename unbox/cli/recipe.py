"""`unbox recipe shapes-turbo | real-size`."""

from typing import Literal

from unbox.errors import UnboxError
from unbox.validation import Count, FilePath, Positive, Processes, Seed, Some, validated

Stage = Literal["vae", "text", "base", "pairs", "turbo", "detector"]


@validated
class RecipeShapesTurboCommand:
    """Train shapes-base, shapes-turbo and the factor detector; stop at any time, the same line goes on."""

    out: FilePath
    """Folder for checkpoints (resumed where there are any) and the finished models."""
    stages: Some[Stage] = ("vae", "text", "base", "pairs", "turbo", "detector")
    """Stages to run; each needs those before it, the detector none."""
    base_minutes: Positive | None = None
    """Minutes for the many-step model instead of the recipe's own."""
    turbo_minutes: Positive | None = None
    """Minutes for the few-step finish instead of the recipe's own."""
    threads: Processes | None = None
    """CPU threads; None: PyTorch's choice. Two that compete with other work are slower than one."""
    captions: Count | None = None
    """Captions, held out, that the model cards measure accuracy on; None: 512."""

    def run(self) -> None:
        import torch

        from unbox.recipes.shapes import recipe
        from unbox.run_folder import run_folder

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        finishing = {"base", "turbo", "detector"} <= set(self.stages)
        given = {"base": self.base_minutes, "turbo": self.turbo_minutes}
        idle = [name for name, minutes in given.items() if minutes is not None and name not in self.stages]
        if idle or (self.captions is not None and not finishing):
            raise UnboxError(
                f"--stages leaves out what --{f'{idle[0]}-minutes' if idle else 'captions'} is for"
            )
        made = recipe.ShapesRecipe(self.out).with_minutes(**given)
        with run_folder(self.out, "recipe shapes-turbo") as folder:
            folder.claim({f"{name} minutes": given[name] for name in given if name in self.stages})
            for stage in self.stages:
                recipe.STAGES[stage](made)
            if finishing:
                for path in recipe.finish(made, 512 if self.captions is None else self.captions):
                    print(f"wrote {path}")


@validated
class RecipeRealSizeCommand:
    """Write SDXL's real architecture with random weights as a diffusers folder.

    For trying hardware and pipelines before anything is downloaded. The images are noise. About 7 GB in
    bfloat16; memory stays small while writing.
    """

    out: FilePath
    """Folder to write; it must not exist."""
    architecture: Literal["base", "refiner"] = "base"
    """SDXL's base (2.57 billion parameters in the UNet) or its refiner (2.26 billion)."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type of the weights on disk."""
    seed: Seed = 0
    """Seed of the weights."""

    def run(self) -> None:
        import torch

        from unbox.models.real_size import write_random
        from unbox.run_folder import new_folder

        with new_folder(self.out, "recipe real-size") as place:
            folder = write_random(place, self.architecture, getattr(torch, self.dtype), self.seed, True)
        refine = "--image IMAGE.png --steps 4" if self.architecture == "refiner" else "--steps 1"
        print(f"wrote {folder}; its images are noise. Try:")
        print(f"  unbox generate --model {folder} --prompt test {refine} --height 512 --width 512")
