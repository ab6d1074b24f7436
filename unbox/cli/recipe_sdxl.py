"""`unbox recipe sdxl`."""

from dataclasses import fields, replace

from unbox.cli.model_options import Group, ModelOptions
from unbox.recipes.sdxl.sdxl_settings import SdxlSettings, TrainingImages, read_recipe
from unbox.validation import FilePath, Processes, validated


@validated
class RecipeSdxlCommand:
    """Train a LoRA, or the whole UNet, of SDXL or a Shapes model on images of your own.

    The images are encoded once, into a cache on disk, and then learned from there. Stop it at any moment; the
    same line goes on to the same numbers. Several GPUs: start the line with `torchrun --nproc-per-node 8 -m
    unbox` or `accelerate launch -m unbox`.
    """

    out: FilePath
    """Folder for the cache, checkpoints and what is trained: lora/, or with --full model/."""
    recipe: FilePath | None = None
    """TOML file with the settings, and the images in a table [images], in place of the options that would."""
    dry_run: bool = False
    """Train nothing: say memory, bytes of checkpoints and cache, and hours, from one measured step."""
    gpus: Processes = 1
    """GPUs that a dry run plans for."""
    images: Group[TrainingImages] = TrainingImages()
    settings: Group[SdxlSettings] = SdxlSettings()
    model: Group[ModelOptions] = ModelOptions("shapes-base")

    @property
    def writes(self) -> bool:
        """Whether a stop keeps anything."""
        return not self.dry_run

    def run(self) -> None:
        from unbox.models.devices import find_device
        from unbox.ranks import ranks
        from unbox.recipes.sdxl.train_sdxl import check_images, train_sdxl
        from unbox.run_folder import check_writable

        images, settings = self.images, self.settings
        if self.recipe is not None:
            planned = read_recipe(self.recipe)
            images = planned.images
            settings = SdxlSettings(
                **{each.name: getattr(planned, each.name) for each in fields(SdxlSettings)}
            )
        check_writable(self.out)
        check_images(images)
        device = self.model.device
        if device is None and ranks().world > 1 and (gpu := find_device(None, ranks().local)).type == "cuda":
            device = str(gpu)
        model = replace(self.model, device=device).load()
        if self.dry_run:
            from unbox.recipes.sdxl.sdxl_cost import estimate_sdxl

            print("\n".join(estimate_sdxl(model, images, settings, self.gpus).lines()))
            return
        place = train_sdxl(model, images, settings, self.out)
        if ranks().rank == 0:
            option = "--model" if settings.full else f"--model {self.model.model} --lora"
            print(f"wrote {place}; try it: unbox generate {option} {place} --prompt ...")
