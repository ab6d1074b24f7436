"""`unbox recipe shapes | real-size`."""

from dataclasses import asdict, replace
from typing import Literal

from unbox.cli.model_options import Group
from unbox.errors import UnboxError
from unbox.recipes.shapes.recipe_settings import OrderName, RecipeSizes, Stage, StageMinutes
from unbox.validation import FilePath, Seed, Some, validated


@validated
class RecipeShapesCommand:
    """Train a Shapes model from nothing: VAE, text encoders, detectors, a UNet grown block by block.

    128 px, 77 tokens, SDXL's topology. A quarter of an hour of an H100 (`docs/LOG.md`); stop at any time,
    the same line goes on.
    """

    out: FilePath
    """Folder for checkpoints (resumed where there are any), reports and the finished models."""
    stages: Some[Stage] = ("captions", "vae", "text", "detector", "critic", "base", "finish")
    """Stages to run; each makes what it needs of those before it."""
    order: OrderName = "words-frozen"
    """In which order blocks come and words with them: a block keeps what it was there to learn first."""
    start: FilePath | None = None
    """Folder with finished stages of another run: text encoders, and a UNet if the order keeps blocks, go on
    from their weights. For --order again --stages finish a finished Shapes model (folder or name)."""
    unpack: FilePath | None = None
    """Folder of what --pack wrote, taken into --out first."""
    pack: FilePath | None = None
    """Folder for finished stages as tar files in half precision, each written as it ends."""
    sizes: Group[RecipeSizes] = RecipeSizes()
    """How much is drawn and read."""
    minutes: Group[StageMinutes] = StageMinutes()
    """How long each stage trains."""
    device: Literal["cpu", "cuda"] | None = None
    """Where to compute: cuda or cpu; None: cuda if it is here."""
    dry_run: bool = False
    """Say what the run takes (memory, bytes of checkpoints, hours) and end."""

    @property
    def writes(self) -> bool:
        """Whether anything is kept of what is done."""
        return not self.dry_run

    def run(self) -> None:
        from unbox.recipes.shapes.recipe_settings import recipe_cost

        if self.order == "again" and set(self.stages) - {"captions", "finish"}:
            raise UnboxError(
                f"--order again has only the finish of a finished model, --stages finish, not "
                f"{' '.join(self.stages)}"
            )
        if self.dry_run:
            print("\n".join(recipe_cost(self.sizes, self.minutes, self.stages).lines()))
            return
        import torch
        from accelerate import Accelerator

        from unbox.models.bf16_support import multiplies_bf16
        from unbox.models.devices import find_device
        from unbox.models.hub import quiet
        from unbox.run_folder import run_folder

        with quiet():  # transformers tells what it would need for pictures, which nobody asks of it
            from unbox.recipes.shapes.finished_model import start_again
            from unbox.recipes.shapes.run_stage import make_models
            from unbox.recipes.shapes.whole_recipe import ShapesRecipe, unpack

        torch.set_float32_matmul_precision("high")
        device = find_device(self.device)

        with run_folder(self.out, "recipe shapes") as folder:
            folder.claim(
                {
                    "order": self.order,
                    "sizes": asdict(self.sizes),
                    "minutes": asdict(self.minutes),
                    "start": None if self.start is None else str(self.start),
                }
            )
            if self.unpack is not None:
                unpack(self.unpack, self.out)
            if self.order == "again" and self.start is not None:
                start_again(str(self.start), self.out)
            accelerator = Accelerator(
                mixed_precision="bf16" if multiplies_bf16(device) else "no", cpu=device.type == "cpu"
            )
            recipe = ShapesRecipe(self.out, accelerator, self.order, self.sizes, self.minutes)
            start = None if self.order == "again" else self.start
            recipe = replace(recipe, start=start, results=self.pack)
            for path in make_models(recipe, self.stages):
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
