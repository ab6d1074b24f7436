"""A tiny SDXL shared by the tests of experiments."""

import pytest

from tests.models.tiny import tiny_pipeline


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    from unbox import load

    folder = tmp_path_factory.mktemp("tiny") / "model"
    return load(str(tiny_pipeline(folder, timestep_spacing="trailing")))
