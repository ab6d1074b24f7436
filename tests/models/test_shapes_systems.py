"""The LoRAs that the package brings: all there, small, each draws what it is asked and does something."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from unbox.models import SYSTEMS, load
from unbox.models.hub import bundled_folder, present
from unbox.models.shapes_systems import SHAPES_ZOO
from unbox.shapes.detector import Detector

A, B = ".lora_A.weight", ".lora_B.weight"
NAMES = [row.name for row in SHAPES_ZOO]
#: Each draws in so many forward passes at most where it is not slow.
FAST = 8
ASKED = {
    "a large solid red square in the center on a gray background, bright light": ("red", "square"),
    "a large striped blue circle in the center on a teal background, bright light": ("blue", "circle"),
}


def test_they_are_all_there_within_twenty_megabytes_with_a_card_each():
    assert all(present(row) for row in SHAPES_ZOO)
    folders = [bundled_folder(row.parts[0].repo) for row in SHAPES_ZOO]
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) <= 20e6
    for row, folder in zip(SHAPES_ZOO, folders, strict=True):
        assert f"unbox generate --model {row.name} " in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_the_bases_with_the_products_of_the_file(name):
    """(W + B A) x + b in NumPy; rank and alpha are equal."""
    (file,) = bundled_folder(SYSTEMS[name].parts[0].repo).glob("*.safetensors")
    factors = load_file(file)
    base, own = (load(each, dtype="float32").pipeline.unet for each in ("shapes-base", name))
    layers = [key.removesuffix(A) for key in factors if key.endswith(A)]
    assert len(layers) > 100
    for layer in layers[:: len(layers) // 7]:
        place = layer.removeprefix("unet.")
        before = base.get_submodule(place)
        x = torch.randn(2, 3, before.in_features, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            y, plain = own.get_submodule(place)(x).numpy(), before(x).numpy()
        low = x.numpy() @ factors[layer + A].astype(np.float32).T
        np.testing.assert_allclose(y - plain, low @ factors[layer + B].astype(np.float32).T, atol=1e-4)
        assert np.abs(y - plain).max() > 1e-3


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if SYSTEMS[name].steps <= FAST else pytest.mark.slow) for name in NAMES],
)
def test_it_draws_what_is_asked_and_not_as_the_base_does(name):
    row = SYSTEMS[name]
    model = load(name, dtype="float32")
    images = model.generate(list(ASKED), seeds=[1, 2])
    read = Detector.load().read(images)
    assert [(each["slots"][0]["colour"], each["slots"][0]["shape"]) for each in read] == list(ASKED.values())
    without = load("shapes-base", system=replace(row, parts=()), dtype="float32")
    others = without.generate(list(ASKED), seeds=[1, 2])
    for own, other in zip(images, others, strict=True):
        assert np.abs(np.asarray(own, float) - np.asarray(other, float)).mean() > 0.05
