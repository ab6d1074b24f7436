"""Recorded updates against output minus input computed independently."""

from collections import defaultdict
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import HeunDiscreteScheduler
from peft import LoraConfig

from tests.capture.conftest import hook_count
from unbox import record
from unbox.errors import UnboxError
from unbox.models import load, weight_hash
from unbox.models.clock import clock
from unbox.site import block_path

BLOCKS = (
    "down.1.0", "down.1.1", "down.2.0", "down.2.1", "mid.0", "up.0.0", "up.0.1", "up.0.2", "up.1.0", "up.1.1",
    "up.1.2",
)  # fmt: skip


@contextmanager
def plain_hooks(model, blocks=BLOCKS):
    """block -> output minus input of each forward, (rows, channels, y, x), by nothing of ours."""
    seen, handles = defaultdict(list), []
    for name in blocks:
        module = model.pipeline.unet.get_submodule(block_path(name))
        keep = lambda m, args, out, name=name: seen[name].append(out[0] - args[0])  # noqa: E731
        handles.append(module.register_forward_hook(keep))
    yield seen
    for handle in handles:
        handle.remove()


def by_hand(forwards, guided):
    """(sample, step, branch, y, x, channel): the pipeline's rows are all unconditional, then all
    conditional.
    """
    steps = [forward.permute(0, 2, 3, 1) for forward in forwards]
    if guided:
        steps = [torch.stack(step.chunk(2)[::-1], dim=1) for step in steps]
    else:
        steps = [step[:, None] for step in steps]
    return torch.stack(steps, dim=1)


@pytest.mark.parametrize("guidance", [0.0, 5.0])
def test_updates_of_all_eleven_blocks_are_output_minus_input_to_the_last_bit(model, guidance):
    assert model.blocks == BLOCKS
    with plain_hooks(model) as seen, record(model, BLOCKS, ("update", "input", "output")) as tape:
        model.generate(["a dog", "a red house"], seeds=[1, 2], steps=2, guidance=guidance)
    for block in BLOCKS:
        truth = by_hand(seen[block], guidance > 1)
        assert tape[block].dtype == torch.float32
        assert torch.equal(tape[block], truth)
        assert torch.equal(tape.read(block, "output") - tape.read(block, "input"), truth)
    assert tape.branches == (("cond", "uncond") if guidance > 1 else ("cond",))
    assert tape.steps == (0, 1)
    assert len(tape) == 2


def test_a_bare_pipeline_call_is_recorded_and_images_count_on_over_calls(model):
    with record(model, "mid.0") as tape:
        for prompts in (["a dog"], ["a cat", "a boat"]):
            model.pipeline(prompts, num_inference_steps=1, guidance_scale=0.0, output_type="latent")
    assert tape["mid.0"].shape == (3, 1, 1, 8, 8, 128)
    with record(model, "mid.0") as apart:
        model.generate(["a dog", "a cat", "a boat"], seeds=[1, 2, 3], steps=2, guidance=5.0, batch_size=2)
    assert apart["mid.0"].shape == (3, 2, 2, 8, 8, 128)
    assert torch.equal(apart.read("mid.0", branch="uncond"), apart["mid.0"][:, :, 1])


def test_two_stage_solvers_visit_a_step_twice_in_one_call(model, folder):
    heun = load(folder, device="cpu")
    heun.pipeline.scheduler = HeunDiscreteScheduler.from_config(heun.pipeline.scheduler.config)
    with plain_hooks(heun, ["mid.0"]) as seen, record(heun, "mid.0") as tape:
        heun.pipeline("a dog", num_inference_steps=3, guidance_scale=0.0, output_type="latent")
    assert len(seen["mid.0"]) == 5
    assert len(tape) == 1
    assert torch.equal(tape["mid.0"], by_hand([seen["mid.0"][i] for i in (0, 2, 4)], guided=False))


def test_sequential_guidance_is_told_apart(model):
    scheduler, unet = model.pipeline.scheduler, model.pipeline.unet
    scheduler.set_timesteps(2)
    x, text = torch.randn(1, 4, 32, 32), torch.randn(2, 1, 77, 64)
    added = {"text_embeds": torch.zeros(1, 32), "time_ids": torch.zeros(1, 6)}
    with torch.no_grad(), clock(model) as now, plain_hooks(model, ["up.0.1"]) as seen:
        with record(model, "up.0.1") as tape:
            for t in scheduler.timesteps:
                for branch, context in zip(("uncond", "cond"), text, strict=True):
                    with now.rows(branches=[branch]):
                        unet(x, t, encoder_hidden_states=context, added_cond_kwargs=added)
    first, second = (torch.stack(seen["up.0.1"][k::2], 1).permute(0, 1, 3, 4, 2) for k in (0, 1))
    assert tape.branches == ("cond", "uncond")
    assert torch.equal(tape.read("up.0.1", branch="uncond"), first)
    assert torch.equal(tape.read("up.0.1", branch="cond"), second)


def test_other_resolutions_and_channels_last(model, folder):
    with record(model, ["mid.0", "up.1.0"]) as tape:
        model.generate("a dog", seed=0, steps=1, guidance=0, height=64, width=96)
    assert tape["mid.0"].shape == (1, 1, 1, 8, 12, 128)
    assert tape["up.1.0"].shape == (1, 1, 1, 16, 24, 64)
    other = load(folder, device="cpu")
    other.pipeline.unet.to(memory_format=torch.channels_last)
    with plain_hooks(other) as seen, record(other, BLOCKS, ("update", "output")) as tape:
        other.generate(["a dog", "a cat"], seeds=[0, 1], steps=2, guidance=5.0)
    assert all(torch.equal(tape[block], by_hand(seen[block], guided=True)) for block in BLOCKS)
    assert tape["mid.0"].is_contiguous()


def test_a_lora_model_is_recorded_with_its_adapter(folder):
    model = load(folder, device="cpu")
    with record(model, "mid.0") as plain:
        model.generate("a dog", seed=0, steps=1, guidance=0)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "proj_out"]
    model.pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    with plain_hooks(model) as seen, record(model, BLOCKS) as tape:
        model.generate(["a dog", "a cat"], seeds=[0, 1], steps=1, guidance=5.0)
    assert all(torch.equal(tape[block], by_hand(seen[block], guided=True)) for block in BLOCKS)
    assert not torch.allclose(tape["mid.0"][:1, :, 0], plain["mid.0"][:, :, 0])


def test_offloaded_models_are_recorded_and_hashed_as_whole_ones(model, folder):
    """The hooks that move weights are the same whatever the device; here they move them from CPU to CPU."""
    call = {"prompts": ["a dog", "a cat"], "seeds": [1, 2], "steps": 2, "guidance": 5.0}
    with record(model, BLOCKS) as whole:
        model.generate(**call)
    by_model, by_layer = load(folder, device="cpu"), load(folder, device="cpu")
    by_model.pipeline.enable_model_cpu_offload(device="cpu")
    cpu_offload(by_layer.unet, torch.device("cpu"))
    assert all(weight.is_meta for weight in by_layer.unet.parameters())
    for offloaded in (by_model, by_layer):
        assert hook_count(offloaded) == 0
        with record(offloaded, BLOCKS) as tape:
            offloaded.generate(**call)
        assert hook_count(offloaded) == 0
        assert all(torch.equal(tape[block], whole[block]) for block in BLOCKS)
        assert weight_hash(offloaded.unet) == weight_hash(model.unet)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch importing its own compiler
def test_compiled_repeated_blocks_are_recorded(folder):
    model = load(folder, device="cpu", compile=True)
    with plain_hooks(model) as seen, record(model, BLOCKS) as tape:
        model.generate(["a dog", "a cat"], seeds=[0, 1], steps=2, guidance=5.0)
    assert all(torch.equal(tape[block], by_hand(seen[block], guided=True)) for block in BLOCKS)


def test_half_precision_updates_are_the_rounded_difference(folder):
    model = load(folder, dtype="bfloat16", device="cpu")
    with (
        record(model, "mid.0", ("update", "input", "output")) as tape,
        record(model, "mid.0", dtype=torch.float32) as wide,
    ):
        model.generate("a dog", seed=0, steps=1, guidance=0)
    exact = tape.read("mid.0", "output").float() - tape.read("mid.0", "input").float()
    assert tape["mid.0"].dtype == torch.bfloat16
    assert torch.equal(tape["mid.0"], exact.bfloat16())
    assert torch.equal(wide["mid.0"], exact)


def test_recording_changes_no_bit_of_the_image(model):
    plain = model.generate("a dog", seed=4, steps=2, guidance=5.0, output="np")[0]
    with record(model, BLOCKS, ("update", "input", "output", "self", "cross")):
        recorded = model.generate("a dog", seed=4, steps=2, guidance=5.0, output="np")[0]
    assert np.array_equal(plain, recorded)


def test_records_never_alias_live_tensors(model):
    live = []
    handle = model.block("mid.0").register_forward_hook(lambda m, args, out: live.extend([args[0], out[0]]))
    with record(model, "mid.0", ("update", "input", "output")) as tape:
        model.generate("a dog", seed=0, steps=1, guidance=0)
    handle.remove()
    addresses = {x.untyped_storage().data_ptr() for x in live}
    for parts in tape._parts.values():
        assert not addresses & {part.rows.untyped_storage().data_ptr() for part in parts.values()}


def test_after_an_exception_nothing_is_left_and_the_next_image_is_the_same(model):
    plain = model.generate("a dog", seed=4, steps=1, guidance=0, output="np")[0]
    before = hook_count(model)

    def interrupted():
        with record(model, BLOCKS, ("update", "cross")):
            model.pipeline("a dog", num_inference_steps=1, callback_on_step_end=lambda *a: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert hook_count(model) == before
    assert model.clock is None
    assert np.array_equal(plain, model.generate("a dog", seed=4, steps=1, guidance=0, output="np")[0])


def test_attention_maps_are_the_weights_of_the_values(model):
    """Oracle: the layer's own output is its output projection of maps times values."""
    block = model.block("up.0.1")
    layers, seen = [0, 2], []
    handles = [
        getattr(block.transformer_blocks[layer], name).register_forward_hook(
            lambda m, args, kwargs, out: seen.append((m, args[0], kwargs, out)), with_kwargs=True
        )
        for layer in layers
        for name in ("attn1", "attn2")
    ]
    with record(model, "up.0.1", ("self", "cross"), layers=layers) as tape:
        model.generate(["a dog", "a cat"], seeds=[0, 1], steps=1, guidance=5.0)
    for handle in handles:
        handle.remove()
    assert tape.read("up.0.1", "self").shape == (2, 1, 2, 2, 8, 8, 8, 64)
    assert tape.read("up.0.1", "cross").shape == (2, 1, 2, 2, 8, 8, 8, 77)
    for number, (attention, hidden, kwargs, output) in enumerate(seen):
        kind, layer = ("self", "cross")[number % 2], number // 2
        maps = tape.read("up.0.1", kind)[:, 0, :, layer].flatten(3, 4)  # (sample, branch, head, query, key)
        assert torch.allclose(maps.sum(-1), torch.ones(()), atol=1e-5)
        maps = torch.cat([maps[:, 1], maps[:, 0]])  # the pipeline's rows: unconditional first
        context = kwargs.get("encoder_hidden_states")
        with torch.no_grad():
            values = attention.to_v(hidden if context is None else context).unflatten(
                -1, (attention.heads, -1)
            )
            mixed = torch.einsum("bhqk,bkhd->bqhd", maps, values).flatten(2)
            assert torch.allclose(attention.to_out[0](mixed), output, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": "mid.7"}, "no block 'mid.7'; it has down.1.0"),
        ({"blocks": "unet"}, "should be the name of a block"),
        ({"what": "soul"}, r"record: what\[0\] = 'soul': should be one of 'update'"),
        ({"what": ()}, "at least 1"),
        ({"what": "cross", "layers": [3]}, "mid.0 has no transformer layer 3; it has 0 to 2"),
    ],
)
def test_what_is_not_there_is_named(model, arguments, message):
    with pytest.raises(UnboxError, match=message), record(model, **{"blocks": "mid.0", **arguments}):
        pass


def test_a_tape_without_what_is_asked_says_so(model):
    with record(model, "mid.0") as tape:
        pass
    with pytest.raises(UnboxError, match="no image was made"):
        tape["mid.0"]
    with pytest.raises(UnboxError, match=r"no update of up\.0\.0; it records update of mid\.0"):
        tape["up.0.0"]
    with record(model, "mid.0") as tape:
        model.generate("a dog", seed=0, steps=1, guidance=0, height=64, width=96)
        model.generate("a dog", seed=0, steps=1, guidance=0)
    with pytest.raises(UnboxError, match="several sizes"):
        tape["mid.0"]


def test_what_would_silently_record_nothing_is_refused(folder):
    model = load(folder, device="cpu")
    model.pipeline.unet.compile(backend="eager")
    with pytest.raises(UnboxError, match="compiled as a whole"), record(model, "mid.0"):
        pass
    model = load(folder, device="cpu")
    model.pipeline.unet.forward = torch.compile(model.pipeline.unet.forward, backend="eager")
    with pytest.raises(UnboxError, match="compiled as a whole"), record(model, "mid.0"):
        pass


def test_a_skipped_block_is_an_error_not_a_gap(folder):
    """As DeepCache does: the deep part of the UNet is not computed and its last output used again."""
    model = load(folder, device="cpu")
    middle = model.pipeline.unet.mid_block
    middle.forward = lambda hidden, *args, **kwargs: hidden
    with record(model, ["mid.0", "up.0.0"]), pytest.raises(UnboxError, match=r"mid\.0 did not run"):
        model.generate("a dog", seed=0, steps=1, guidance=0)


def test_a_step_visited_twice_hides_none_that_never_came(folder):
    """Of two images one has step 1 twice, as Heun's solver goes, and the other never."""
    heun = load(folder, device="cpu")
    heun.pipeline.scheduler = HeunDiscreteScheduler.from_config(heun.pipeline.scheduler.config)
    heun.pipeline.scheduler.set_timesteps(3)
    first, second = list(dict.fromkeys(heun.pipeline.scheduler.timesteps.tolist()))[:2]
    text, added = torch.randn(1, 77, 64), {"text_embeds": torch.zeros(1, 32), "time_ids": torch.zeros(1, 6)}
    visits = [(0, first), (1, first), (0, second), (0, second)]
    with torch.no_grad(), clock(heun) as now, record(heun, "mid.0") as tape:
        for image, t in visits:
            with now.rows(samples=[image]):
                x = torch.randn(1, 4, 32, 32)
                heun.unet(x, t, encoder_hidden_states=text, added_cond_kwargs=added)
    with pytest.raises(UnboxError, match="image 1 has no cond at step 1"):
        tape["mid.0"]


def test_of_a_step_visited_twice_the_last_visit_is_kept_and_no_other(folder):
    heun = load(folder, device="cpu")
    heun.pipeline.scheduler = HeunDiscreteScheduler.from_config(heun.pipeline.scheduler.config)
    call = {
        "num_inference_steps": 3,
        "guidance_scale": 0.0,
        "output_type": "latent",
        "height": 64,
        "width": 64,
    }
    with plain_hooks(heun, ["mid.0"]) as seen, record(heun, "mid.0") as tape:
        heun.pipeline("a dog", **call)
    heun.pipeline.scheduler.set_timesteps(3)
    timesteps = heun.pipeline.scheduler.timesteps.tolist()
    assert len(timesteps) == len(seen["mid.0"]) == 5
    last = dict(zip(timesteps, seen["mid.0"], strict=True))
    assert torch.equal(tape["mid.0"], by_hand(list(last.values()), guided=False))
    assert sum(len(parts) for parts in tape._parts.values()) == 3
    with record(heun, "mid.0") as tape:
        for _ in range(2):
            heun.pipeline("a dog", **call)
    assert tape["mid.0"].shape[:3] == (2, 3, 1)
