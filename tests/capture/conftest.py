import pytest

from tests.models.tiny import tiny_pipeline
from unbox.models import Model, load


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The tiny SDXL as a diffusers folder that may be sampled in any number of steps."""
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"), timestep_spacing="trailing", steps_offset=0)


@pytest.fixture(scope="session")
def model(folder) -> Model:
    """The tiny SDXL loaded; shared, so a test must leave it as it was."""
    return load(folder, device="cpu")


def hook_count(model) -> int:
    """Hooks of any kind on any part of the UNet."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return sum(len(getattr(part, kind)) for part in model.unet.modules() for kind in kinds)


@pytest.fixture(autouse=True)
def nothing_left_behind(request):
    """No test may leave a hook or a running clock on the shared model."""
    if "model" not in request.fixturenames:
        yield
        return
    model = request.getfixturevalue("model")
    before = hook_count(model)
    yield
    assert hook_count(model) == before
    assert model.clock is None
