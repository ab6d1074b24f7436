"""Edits and recording on a UNet compiled as a whole are those of one that is not."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from tests.edits.dictionaries import random_sae
from tests.models.tiny import tiny_pipeline
from unbox import load, record
from unbox.errors import UnboxError
from unbox.models.block_hooks import compile_whole, compiled_whole, hook_block

pytestmark = pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch's own compiler

SAE = random_sae("up.0.1", width=128, latents=64, k=4)
EDIT = SAE.feature(3).add(60, unit="absolute", where=(0, 0, 0.5, 1)) + SAE.feature((1, 2)).scale(-2, steps=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"), timestep_spacing="trailing")


@pytest.fixture(scope="module")
def plain(folder):
    return load(folder, device="cpu")


@pytest.fixture(scope="module")
def compiled(folder):
    model = load(folder, device="cpu")
    compile_whole(model.unet, backend="eager")
    return model


def made(model, edits=None, blocks=("up.0.1", "mid.0")):
    call = {"steps": 2, "guidance": 3.0, "height": 64, "width": 64, "output": "latent"}
    with record(model, blocks, ("update", "input")) as tape:
        images = model.generate(["a cat", "a dog"], seeds=[1, 2], edits=edits, **call)
    return torch.stack(images), tape


@pytest.mark.slow
def test_edits_steps_and_branches_are_those_of_the_written_unet(plain, compiled):
    for edits in (None, [None, EDIT]):
        (images, tape), (wanted, truth) = made(compiled, edits), made(plain, edits)
        assert torch.equal(images, wanted)
        assert (tape.steps, tape.branches) == (truth.steps, truth.branches) == ((0, 1), ("cond", "uncond"))
        for block in tape.blocks:
            for kind in ("update", "input"):
                assert torch.equal(tape.read(block, kind), truth.read(block, kind))
    assert not torch.equal(made(compiled)[0], made(compiled, EDIT)[0])


@pytest.mark.slow
def test_edits_come_and_go_without_compiling_again(compiled):
    made(compiled)
    with torch.compiler.set_stance("fail_on_recompile"):
        first = made(compiled, EDIT)[0]
        made(compiled, SAE.feature(9).add(3, unit="absolute"))
        assert torch.equal(made(compiled, EDIT)[0], first)


@pytest.mark.parametrize("what", ["self", "cross", "skip", "ff_input", "self_heads"])
def test_inside_of_blocks_nothing_is_recorded_silently(compiled, what):
    with (
        pytest.raises(UnboxError, match=r"compile_whole\).*for .* load without it"),
        record(compiled, "up.0.1", what),
    ):
        pass


def test_what_cannot_be_compiled_is_refused(folder, compiled):
    with pytest.raises(UnboxError, match="compiled already"):
        compile_whole(compiled.unet)
    with pytest.raises(UnboxError, match=r"--compile-whole.* cannot be beside compile"):
        load(folder, compile=True, compile_whole=True)
    with pytest.raises(UnboxError, match=r"--compile-whole.* cannot be beside offload='sequential'"):
        load(folder, compile_whole=True, offload="sequential")


def test_a_model_is_compiled_by_its_option(folder):
    model = load(folder, device="cpu", compile_whole=True)
    assert compiled_whole(model.unet)
    assert hasattr(model.unet.forward, "_torchdynamo_orig_callable")


def small_unet():
    """One level with two transformer blocks of SDXL's kind: the compiler takes long of more."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(32,), layers_per_block=1, cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("UpBlock2D",), norm_num_groups=8,
        attention_head_dim=8, use_linear_projection=True,
    ).eval()  # fmt: skip


@pytest.mark.slow
def test_the_compiler_that_users_get():
    """Inductor: kernels of its own, so what comes out agrees within rounding; hooks come and go."""
    plain, compiled = small_unet(), small_unet()
    compile_whole(compiled)
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)

    def made(unet, strength):
        seen = []

        def change(block, args, kwargs, output):
            seen.append(output[0] - args[0])
            return (output[0] + strength * seen[-1],)

        with torch.no_grad():
            handle = hook_block(unet.mid_block.attentions[0], change)
            found = unet(x, torch.tensor(500), context).sample
            handle.remove()
            assert not torch.equal(found, unet(x, torch.tensor(500), context).sample)
        assert len(seen) == 1
        return found, seen[0]

    for strength in (3.0, -1.0):
        for own, wanted in zip(made(compiled, strength), made(plain, strength), strict=True):
            assert torch.allclose(own, wanted, atol=1e-4)
