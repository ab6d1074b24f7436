"""`unbox recipe shapes | shapes-turbo | real-size`."""

from dataclasses import asdict, replace
from typing import Literal

from unbox.cli.model_options import Group
from unbox.errors import UnboxError
from unbox.recipes.grown_shapes.recipe_settings import OrderName, RecipeSizes, Stage, StageMinutes
from unbox.validation import Count, FilePath, Positive, Processes, Seed, Some, validated

TurboStage = Literal["vae", "text", "base", "pairs", "turbo", "detector"]


@validated
class RecipeShapesCommand:
    """Train a Shapes model from nothing: VAE, text encoders, detectors, a UNet grown block by block.

    128 px, 77 tokens, SDXL's topology. Some ten minutes of an H100; stop at any time, the same line goes on.
    """

    out: FilePath
    """Folder for checkpoints (resumed where there are any), reports and the finished models."""
    stages: Some[Stage] = ("captions", "vae", "text", "detector", "critic", "base", "finish")
    """Stages to run; each makes what it needs of those before it."""
    order: OrderName = "words-frozen"
    """In which order blocks come and words with them: a block keeps what it was there to learn first."""
    start: FilePath | None = None
    """Folder with finished stages of another run: text encoders, and a UNet if the order keeps blocks, go on
    from their weights."""
    unpack: FilePath | None = None
    """Folder of what --pack wrote, taken into --out first."""
    pack: FilePath | None = None
    """Folder for finished stages as tar files in half precision, each written as it ends."""
    guidance: Positive = 1.0
    """Scale of classifier-free guidance of the many-step samples that the finish learns from."""
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
        from unbox.recipes.grown_shapes.recipe_settings import recipe_cost

        if self.dry_run:
            print("\n".join(recipe_cost(self.sizes, self.minutes, self.stages).lines()))
            return
        import torch
        from accelerate import Accelerator

        from unbox.models.devices import find_device
        from unbox.recipes.grown_shapes.run_stage import make_models
        from unbox.recipes.grown_shapes.whole_recipe import GrownShapes, unpack
        from unbox.run_folder import run_folder

        torch.set_float32_matmul_precision("high")
        device = find_device(self.device)

        with run_folder(self.out, "recipe shapes") as folder:
            folder.claim(
                {
                    "order": self.order,
                    "sizes": asdict(self.sizes),
                    "minutes": asdict(self.minutes),
                    "start": None if self.start is None else str(self.start),
                    "guidance": self.guidance,
                }
            )
            if self.unpack is not None:
                unpack(self.unpack, self.out)
            accelerator = Accelerator(mixed_precision="bf16", cpu=device.type == "cpu")
            recipe = GrownShapes(self.out, accelerator, self.order, self.sizes, self.minutes)
            recipe = replace(recipe, guidance=self.guidance, start=self.start, results=self.pack)
            for path in make_models(recipe, self.stages):
                print(f"wrote {path}")


@validated
class RecipeShapesTurboCommand:
    """Train shapes-base, shapes-turbo and the factor detector; stop at any time, the same line goes on."""

    out: FilePath
    """Folder for checkpoints (resumed where there are any) and the finished models."""
    stages: Some[TurboStage] = ("vae", "text", "base", "pairs", "turbo", "detector")
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
