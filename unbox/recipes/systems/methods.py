"""The methods by name."""

from typing import Any

from unbox.errors import UnboxError
from unbox.recipes.sdxl.sdxl_settings import TrainingImages, TrainingSettings
from unbox.recipes.systems.distar import DISTAR
from unbox.recipes.systems.lightning import LIGHTNING
from unbox.recipes.systems.method_settings import DistarSettings, NcpSettings, Settings, TurboSettings
from unbox.recipes.systems.ncp import NCP, check_losers
from unbox.recipes.systems.novelai import NOVELAI
from unbox.recipes.systems.picture_networks import check_picture_network
from unbox.recipes.systems.run_method import losers_of
from unbox.recipes.systems.turbo import TURBO
from unbox.recipes.systems.workbench import Method

METHODS: dict[str, Method[Any]] = {method.name: method for method in (TURBO, LIGHTNING, NOVELAI, NCP, DISTAR)}


def method_of(name: str, settings: Settings) -> Method[Settings]:
    """The method of a name, for settings of its kind."""
    found: Method[Settings] = METHODS[name]
    if not isinstance(settings, found.settings):
        raise UnboxError(f"{name} takes {found.settings.__name__}, not {type(settings).__name__}")
    return found


def check_asked(settings: TrainingSettings, images: TrainingImages) -> None:
    """Raise UnboxError, before a model is loaded, for what is asked for and is not there."""
    if isinstance(settings, NcpSettings):
        check_losers(settings)
        losers_of(images, settings, 64)
    if isinstance(settings, TurboSettings):
        check_picture_network("projector", settings.projector, images)
    if isinstance(settings, DistarSettings):
        check_picture_network("reward", settings.reward, images)
