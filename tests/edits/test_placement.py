"""SAEs reach a device once for a model, and leave with it; an edited block has one hook."""

import gc

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.edits.dictionaries import random_sae
from tests.simulated_gpu import CUDA, SimulatedGpu
from unbox import load
from unbox.edit import Edits
from unbox.edits import placement
from unbox.edits.apply import EditHook
from unbox.edits.baselines import random_directions
from unbox.edits.placement import DictionaryCopies, copies_of

BLOCKS = ("down.2.1", "mid.0", "up.0.0", "up.0.1")
LATENTS = 250
CALL = {"steps": 1, "guidance": 0.0, "height": 64, "width": 64, "output": "latent", "batch_size": 8}


@pytest.fixture
def saes():
    return {block: random_sae(block, width=128, latents=LATENTS, k=4) for block in BLOCKS}


@pytest.fixture(scope="module")
def gpu_model(tiny_folder):
    model = load(str(tiny_folder), device="cpu")
    with SimulatedGpu():
        model.pipeline.to(CUDA)
    return model


@pytest.fixture
def gpu():
    with SimulatedGpu() as gpu:
        yield gpu


def encoders(gpu):
    """How often the weights of an encoder or decoder have come from the host."""
    return sum(shape == (LATENTS, 128) for _, shape in gpu.sent) / 2


def edits_of_images(saes, count=24):
    """All of them read the update: each needs its whole SAE."""
    return [saes[BLOCKS[i % 4]].feature(i).scale(2) + saes["mid.0"].feature(i).add(1) for i in range(count)]


def test_many_edits_in_one_call_and_the_next_move_each_sae_once(gpu_model, saes, gpu):
    model = gpu_model
    model.generate("a cat", edits=edits_of_images(saes), seed=1, **CALL)
    assert encoders(gpu) == len(BLOCKS)
    model.generate("a dog", edits=edits_of_images(saes)[::-1], seed=2, **CALL)
    assert encoders(gpu) == len(BLOCKS)
    for block in BLOCKS:
        EditHook(saes[block].feature(1).scale(3) + saes["mid.0"].feature(2).add(1)).attach(model)  # a check
    assert encoders(gpu) == len(BLOCKS)


def test_what_is_only_added_moves_no_sae(gpu_model, saes, gpu):
    model = gpu_model
    edits = [saes[block].feature((i, i + 1)).add(i) for i, block in enumerate(BLOCKS)]
    model.generate("a cat", seed=1, edits=edits, **CALL)
    assert encoders(gpu) == 0
    assert max(size for size, shape in gpu.sent if 128 in shape) < 4096


def test_copies_are_freed_with_the_model_the_sae_and_its_old_weights(gpu):
    unet, sae = nn.Linear(1, 1), random_sae()
    copies = copies_of(unet)
    first = copies.on(sae, CUDA)
    assert first.W_dec.device == CUDA
    assert copies.on(sae, CUDA) is first
    assert copies.on(first, CUDA) is first
    sae.load_state_dict(random_sae(seed=1).state_dict())
    second = copies.on(sae, CUDA)
    assert second is not first
    assert torch.equal(second.W_dec.cpu(), sae.W_dec)
    assert len(copies._copies) == 1
    held = copies._copies
    del sae, first, second
    gc.collect()
    assert not held
    copies.on(basis := random_directions("mid.0", torch.randn(8, 6).numpy(), 4), CUDA)
    assert len(copies_of(unet)._copies) == 1
    del unet, copies
    gc.collect()
    assert len(placement._OF_UNETS) == 0 or basis is not None


def test_what_is_kept_is_bounded_and_the_last_used_stay(monkeypatch, gpu):
    saes, copies = [random_sae(seed=i) for i in range(4)], DictionaryCopies()
    size = sum(each.nbytes for each in saes[0].parameters())
    monkeypatch.setattr(placement, "KEPT", 2 * size)
    a, b = copies.on(saes[0], CUDA), copies.on(saes[1], CUDA)
    assert copies.on(saes[0], CUDA) is a
    copies.on(saes[2], CUDA)
    assert copies.on(saes[0], CUDA) is a
    assert copies.on(saes[1], CUDA) is not b
    monkeypatch.setattr(placement, "KEPT", 0)
    assert copies.on(saes[3], CUDA) is copies.on(saes[3], CUDA)
    assert len(copies._copies) == 1


def test_one_hook_a_block_whatever_the_number_of_edits(tiny, saes):
    seen = []

    def count(*_):
        seen.append([len(tiny.block(block)._forward_hooks) for block in BLOCKS])

    handle = tiny.unet.register_forward_pre_hook(count)
    tiny.generate("a cat", seed=1, edits=edits_of_images(saes), **CALL)
    handle.remove()
    assert seen == [[1, 1, 1, 1]] * 3


class Operations(TorchDispatchMode):
    """How many operations run."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_a_hundred_adds_on_four_blocks_are_a_few_operations_a_step(tiny, saes):
    """Beside the UNet's own: the maps are laid out at the first step, and each block adds one tensor."""
    hundred = (saes[BLOCKS[i % 4]].feature(i).add(1 + i, where=(0, 0, 0.5, 1)) for i in range(100))
    edits = Edits(tuple(hundred))
    counts = {}
    for name, some in {"plain": None, "edited": edits}.items():
        steps = []

        def begin(*_, steps=steps):
            steps.append(mode.count)

        with Operations() as mode:
            handle = tiny.unet.register_forward_pre_hook(begin)
            tiny.generate(
                "a", seed=1, edits=some, steps=4, height=64, width=64, guidance=4.0, output="latent"
            )
            handle.remove()
        counts[name] = steps[3] - steps[2]
    assert 0 < counts["edited"] - counts["plain"] <= 2 * len(BLOCKS)
