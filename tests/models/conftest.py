from dataclasses import replace

import pytest

from tests.models.tiny import tiny_pipeline, tiny_refiner
from unbox.models import SYSTEMS, Model, load


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The tiny SDXL as a diffusers folder (epsilon, leading)."""
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_v(tmp_path_factory):
    """The tiny SDXL as a v-prediction checkpoint."""
    return tiny_pipeline(tmp_path_factory.mktemp("tiny-v"), prediction_type="v_prediction")


@pytest.fixture(scope="session")
def refiner(tmp_path_factory):
    """A tiny refiner folder."""
    return tiny_refiner(tmp_path_factory.mktemp("refiner"))


@pytest.fixture(scope="session")
def model(tiny) -> Model:
    """The tiny SDXL with guidance, trailing so that three steps are a run. Shared: leave it as it was."""
    trailing = {"timestep_spacing": "trailing"}
    return load(tiny, system=replace(SYSTEMS["sdxl-base"], size=64, scheduler_config=trailing))
