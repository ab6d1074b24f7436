"""Edits, recording and guidance with tensors on cuda:0: right devices and types, and no wait in the loop."""

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image

from tests.edits.dictionaries import random_sae
from tests.simulated_gpu import CUDA, SimulatedGpu
from unbox import load, record
from unbox.atlas.text_embeddings import embed
from unbox.edit import Block, Direction
from unbox.edits import Guard, guarded, invert
from unbox.models import Micro, devices, load_controlnet
from unbox.models.load import OFFLOADS

SAE, MID = (random_sae(block, width=128, latents=64, k=4) for block in ("up.0.1", "mid.0"))
MOVING = np.random.default_rng(0).random((4, 8, 8)).astype(np.float32)
EDITS = {
    "add": SAE.feature(3).add(4, where=(0, 0, 0.5, 1)),
    "add, a curve and a moving map": SAE.feature((3, 4)).add([1, 2, 3], where=MOVING, branch="contrast"),
    "scale and set": SAE.feature((1, 2)).scale(3, above=0.1) + SAE.feature(2).set(4, where="own"),
    "direction": Direction("mid.0", np.linspace(-1, 1, 128)).scale([0.5, 2]),
    "whole": Block("mid.0").reconstruct(MID) + MID.feature(5).replace(2, where=(0, 0, 1, 0.5)),
    "guarded": guarded(SAE.feature(3).add(40), Guard({"up.0.1": (0, 5)})),
}
#: Pictures that runs start from or follow.
NOISE = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)) for seed in (0, 1)
]
HALF = np.kron([[1.0], [0.0]], np.ones((32, 64), np.float32))
IMAGE, MASK, CONTROL = {"image": NOISE[0], "strength": 0.6}, {"mask": HALF}, {"control": NOISE[1]}
PICTURES = {
    "image": IMAGE,
    "inpainting": IMAGE | MASK,
    "control": CONTROL,
    "control, inpainting": IMAGE | MASK | CONTROL,
}
CALL = {"steps": 4, "guidance": 4.0, "height": 64, "width": 64, "output": "latent"}


@pytest.fixture(scope="module")
def gpu_model(tiny_folder):
    model = load(str(tiny_folder), device="cpu")
    with SimulatedGpu():
        model.pipeline.to(CUDA)
    return model


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(devices, "devices", lambda: ["cpu", "cuda:0"])
    with SimulatedGpu() as gpu:
        yield gpu


def drawn(model, **options):
    micro = [Micro(), Micro(crop=(8, 8))]
    return torch.stack(model.generate(["a cat", "a dog"], seeds=[1, 2], micro=micro, **CALL, **options))


class Steps:
    """What the host waited for in each step of the loop, from the first forward to the end of the last."""

    def __init__(self, model, gpu):
        self.model, self.gpu, self.places = model, gpu, []

    def __enter__(self):
        note = lambda *_: self.places.append(len(self.gpu.waits))  # noqa: E731
        self.handles = [self.model.unet.register_forward_pre_hook(note, prepend=True)]
        self.handles += [self.model.unet.register_forward_hook(note)]
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()

    @property
    def waits(self):
        return self.gpu.waits[self.places[0] : self.places[-1]]


@pytest.mark.parametrize("name", EDITS)
def test_nothing_waits_in_the_loop_and_the_numbers_are_the_cpus(tiny, gpu_model, gpu, name):
    edits = [None, EDITS[name]]
    wanted = drawn(tiny, edits=edits)
    with Steps(gpu_model, gpu) as steps, record(gpu_model, ["mid.0"], device="cuda:0") as tape:
        images = drawn(gpu_model, edits=edits)
    assert steps.waits == []
    assert images.device == tape["mid.0"].device == CUDA
    assert (images.cpu() - wanted).abs().max() < 1e-3 * wanted.abs().max()


def test_the_same_edits_for_all_images_and_both_branches(tiny, gpu_model, gpu):
    edits = EDITS["add"] + EDITS["scale and set"] + EDITS["whole"]
    with Steps(gpu_model, gpu) as steps:
        images = drawn(gpu_model, edits=edits)
    assert steps.waits == []
    wanted = drawn(tiny, edits=edits)
    assert (images.cpu() - wanted).abs().max() < 1e-3 * wanted.abs().max()


@pytest.fixture(scope="module")
def controlled(tiny_folder, tmp_path_factory):
    """A model with a ControlNet, on the CPU and on the GPU."""
    models = [load(str(tiny_folder), device="cpu") for _ in range(2)]
    torch.manual_seed(3)
    made = ControlNetModel.from_unet(models[0].unet, conditioning_embedding_out_channels=(16, 32))
    with torch.no_grad():
        for name, tensor in made.named_parameters():
            if "controlnet_" in name:  # zero as they begin
                tensor.add_(0.02 * torch.randn_like(tensor))
    made.save_pretrained(folder := tmp_path_factory.mktemp("controlnet"))
    for model in models:
        load_controlnet(model, folder)
    with SimulatedGpu():
        models[1].pipeline.to(CUDA)
        models[1].controlnet.to(CUDA)
    return models


@pytest.mark.parametrize("kind", PICTURES)
def test_runs_from_pictures_are_the_cpus(controlled, gpu, kind):
    on_cpu, on_gpu = controlled
    call = {"seed": 1, "edits": [None, EDITS["add"] + EDITS["scale and set"]]} | CALL | PICTURES[kind]
    with Steps(on_gpu, gpu) as steps, record(on_gpu, ["mid.0"], device="cuda:0") as tape:
        images = torch.stack(on_gpu.generate("a cat", **call))
    wanted = torch.stack(on_cpu.generate("a cat", **call))
    assert (images.cpu() - wanted).abs().max() < 1e-3 * wanted.abs().max()
    assert not torch.equal(wanted[0], wanted[1])
    assert tape.steps == ((2, 3) if "image" in PICTURES[kind] else (0, 1, 2, 3))
    if "mask" not in PICTURES[kind]:  # diffusers' inpainting itself reads the next step's number on the host
        assert steps.waits == []


@pytest.fixture
def offloaded(request, tiny_folder):
    how, dtype = request.param
    model = load(str(tiny_folder), device="cpu", dtype=dtype)
    with SimulatedGpu():
        if how is None:
            model.pipeline.to(CUDA)
        else:
            getattr(model.pipeline, OFFLOADS[how])(device=CUDA)
    return model


@pytest.mark.parametrize(
    "offloaded", [(None, "float16"), ("model", "float16"), ("sequential", "float32")], indirect=True
)
def test_types_and_devices_fit_under_offload(offloaded, gpu):
    call = {"seed": 1, "steps": 2, "guidance": 3.0, "height": 64, "width": 64}
    with record(offloaded, ["mid.0", "up.0.1"], device="cpu") as tape:
        images = offloaded.generate("a cat", edits=[EDITS["add"], EDITS["scale and set"]], **call)
    assert len(images) == 2
    assert tape["mid.0"].dtype == offloaded.dtype
    assert tape["mid.0"].isfinite().all()
    inversion = invert(offloaded, images[0], "a cat", steps=2, start=1, guidance=3.0)
    assert inversion.draw(EDITS["add"]).size == (64, 64)
    assert embed(offloaded, ["a cat", "a dog"]).shape[0] == 2


@pytest.mark.parametrize("offloaded", [("model", "float16")], indirect=True)
def test_types_and_devices_fit_where_a_picture_is_drawn_anew_under_offload(offloaded, gpu):
    call = {"seed": 1, "steps": 2, "guidance": 3.0, "edits": EDITS["add"]} | IMAGE | MASK
    with record(offloaded, ["mid.0"], device="cuda:0") as tape:
        (image,) = offloaded.generate("a cat", **call)
    assert image.size == (64, 64)
    assert (tape["mid.0"].device, tape["mid.0"].dtype, tape.steps) == (CUDA, torch.float16, (1,))
