"""`unbox recipe turbo | lightning | novelai | ncp | distar`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from unbox.cli.model_options import Group, ModelOptions
from unbox.recipes.sdxl.sdxl_settings import TrainingImages
from unbox.recipes.systems.method_settings import (
    DistarSettings,
    LightningSettings,
    NcpSettings,
    NovelaiSettings,
    Settings,
    TurboSettings,
    read_method,
)
from unbox.validation import FilePath, Processes, validated

if TYPE_CHECKING:
    from unbox.models import Model


@validated(kw_only=True)
class MethodOptions:
    """What each of these commands takes."""

    out: FilePath
    """Folder for the cache, checkpoints and what is trained: lora/, or with --full model/."""
    recipe: FilePath | None = None
    """TOML file with the settings, and the images in a table [images], in place of the options that would."""
    dry_run: bool = False
    """Train nothing: say memory, bytes of checkpoints and cache, and hours, from one measured step."""
    gpus: Processes = 1
    """GPUs that a dry run plans for."""
    images: Group[TrainingImages] = TrainingImages()
    model: Group[ModelOptions] = ModelOptions("shapes-base")

    @property
    def writes(self) -> bool:
        """Whether a stop keeps anything."""
        return not self.dry_run

    def loaded(self, device: str | None) -> "Model":
        """The model that is trained, or whose teacher it is."""
        return replace(self.model, device=device).load()


@validated(kw_only=True)
class RecipeTurboCommand(MethodOptions):
    """ADD, as SDXL Turbo was made: a student in four steps or fewer.

    It learns against a critic on decoded pictures and from its teacher. The same line goes on after a stop;
    works for SDXL and Shapes models, as a LoRA or whole.
    """

    settings: Group[TurboSettings] = TurboSettings()

    def run(self) -> None:
        run_recipe(self, "turbo", self.settings)


@validated(kw_only=True)
class RecipeLightningCommand(MethodOptions):
    """SDXL-Lightning: progressive distillation in stages, by squared error and then adversarially.

    Controls: --arm mse, ladd, dmd2. The same line goes on after a stop; works for SDXL and Shapes models,
    as a LoRA or whole.
    """

    settings: Group[LightningSettings] = LightningSettings()

    def run(self) -> None:
        run_recipe(self, "lightning", self.settings)


@validated(kw_only=True)
class RecipeNovelaiCommand(MethodOptions):
    """NovelAI V3: v-prediction under zero terminal SNR, with Min-SNR weights.

    From a model's weights or from nothing. The same line goes on after a stop; works for SDXL and Shapes
    models.
    """

    settings: Group[NovelaiSettings] = NovelaiSettings()

    def run(self) -> None:
        run_recipe(self, "novelai", self.settings)


@validated(kw_only=True)
class RecipeNcpCommand(MethodOptions):
    """NCP: preference by DPO, CPO or SFT in the space of the UNet's encoder.

    With --space output plain Diffusion-DPO. The same line goes on after a stop; works for SDXL and Shapes
    models, as a LoRA or whole.
    """

    settings: Group[NcpSettings] = NcpSettings()

    def run(self) -> None:
        run_recipe(self, "ncp", self.settings)


@validated(kw_only=True)
class RecipeDistarCommand(MethodOptions):
    """Diff-Instruct*: a one-step generator near its teacher's scores, towards a reward.

    Controls: --distance kl, sid. The same line goes on after a stop; works for SDXL and Shapes models, as a
    LoRA or whole.
    """

    settings: Group[DistarSettings] = DistarSettings()

    def run(self) -> None:
        run_recipe(self, "distar", self.settings)


def run_recipe(command: MethodOptions, name: str, settings: Settings) -> None:
    """Train by a method, or say what that would cost."""
    from unbox.models.devices import find_device
    from unbox.ranks import ranks
    from unbox.recipes.sdxl.train_sdxl import check_images
    from unbox.recipes.systems.methods import check_asked, method_of
    from unbox.recipes.systems.run_method import train_method
    from unbox.run_folder import check_writable

    images = command.images
    if command.recipe is not None:
        settings, images = read_method(command.recipe, type(settings))
    check_writable(command.out)
    check_images(images)
    check_asked(settings, images)
    method = method_of(name, settings)
    device = command.model.device
    if device is None and ranks().world > 1 and (gpu := find_device(None, ranks().local)).type == "cuda":
        device = str(gpu)
    model = command.loaded(device)
    if command.dry_run:
        from unbox.recipes.systems.method_cost import estimate_method

        print("\n".join(estimate_method(method, model, images, settings, command.gpus).lines()))
        return
    place = train_method(method, model, images, settings, command.out)
    if ranks().rank == 0:
        print(f"wrote {place}; try it: {line(command.model.model, place, settings.full)}")


def line(model: str, place: Path, full: bool) -> str:
    """How the result is tried."""
    given = f"--model {place}" if full else f"--model {model} --lora {place} --system {place}/system.json"
    return f"unbox generate {given} --prompt ..."
