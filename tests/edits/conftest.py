"""A tiny SDXL shared by the tests of edits."""

import pytest

from tests.models.tiny import tiny_pipeline


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model", timestep_spacing="trailing")


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    from unbox import load

    return load(str(tiny_folder))
