"""The recipe of the Shapes models: parts against diffusers' own, growth, every stage at toy length."""

import shutil
from contextlib import nullcontext
from dataclasses import replace
from typing import get_args

import pytest
import torch
from accelerate import Accelerator
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionXLPipeline
from safetensors.torch import save_file

from unbox.errors import UnboxError
from unbox.recipes.shapes import sampling
from unbox.recipes.shapes.conditions import CaptionStates, Given, halved
from unbox.recipes.shapes.growth import (
    BLOCKS,
    block,
    bring_in,
    draw_times,
    leave_out,
    renew,
)
from unbox.recipes.shapes.networks import (
    TextEncoders,
    make_scheduler,
    make_tokenizer,
    make_unet,
    make_vae,
    tokenize,
)
from unbox.recipes.shapes.orders import ORDERS, said_by
from unbox.recipes.shapes.recipe_settings import (
    TEXT,
    UNET,
    VAE,
    OrderName,
    RecipeSizes,
    StageMinutes,
    recipe_cost,
)
from unbox.recipes.shapes.run_stage import run_stage
from unbox.recipes.shapes.text_stage import CaptionReader
from unbox.recipes.shapes.whole_recipe import ShapesRecipe, unpack
from unbox.recipes.shapes.world import NAMES, all_captions, targets
from unbox.shapes import FACTORS
from unbox.shapes.scene_table import sample_table
from unbox.site import DEFAULT_BLOCKS


class Curve(torch.nn.Module):
    """A network whose output is known."""

    def forward(self, x, t, context, added_cond_kwargs=None, return_dict=False):
        return (torch.tanh(1.3 * x + t.view(-1, 1, 1, 1) / 1000),)


@pytest.mark.parametrize("ancestral", [False, True])
@pytest.mark.parametrize("steps", [1, 4, 16])
def test_sampling_is_that_of_diffusers_schedulers(ancestral, steps, monkeypatch):
    monkeypatch.setattr(sampling.torch, "autocast", lambda *_, **__: nullcontext())
    scheduler = make_scheduler()
    if ancestral:
        scheduler = EulerAncestralDiscreteScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(steps)
    eps = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x, generator = eps * scheduler.init_noise_sigma, torch.Generator().manual_seed(3)
    for t in scheduler.timesteps:
        (v,) = Curve()(scheduler.scale_model_input(x, t), t.repeat(3), None)
        x = scheduler.step(v, t, x, **({"generator": generator} if ancestral else {})).prev_sample
    given = Given(torch.zeros(3, 77, 8), torch.zeros(3, 8), torch.zeros(3, 6))
    ours = sampling.sample(
        Curve(), given, eps, steps, torch.Generator().manual_seed(3) if ancestral else None
    )
    assert torch.allclose(ours, x, atol=1e-5)


def _inputs(n=2):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, 32, 32, generator=generator)
    given = Given(
        torch.randn(n, 77, 224, generator=generator),
        torch.randn(n, 128, generator=generator),
        torch.tensor([[128.0, 128, 0, 0, 128, 128]]).expand(n, -1),
    )
    return x, torch.tensor([999, 500][:n]), given


def test_a_block_comes_without_changing_anything_and_then_learns():
    torch.manual_seed(0)
    unet = make_unet()
    x, t, given = _inputs()
    leave_out(unet, BLOCKS)
    bring_in(unet, ["mid.0"], zero=False)
    before = given.predict(unet)(x, t)
    bring_in(unet, ["up.0.1"])
    after = given.predict(unet)(x, t)
    assert torch.equal(before, after)
    after.square().mean().backward()
    assert float(block(unet, "up.0.1").proj_out.weight.grad.abs().max()) > 0
    assert float(block(unet, "mid.0").proj_out.weight.grad.abs().max()) > 0
    assert all(p.grad is None for p in block(unet, "down.2.1").parameters())


def test_every_block_is_a_site_and_every_order_brings_each_once():
    assert set(DEFAULT_BLOCKS) < set(BLOCKS)
    assert len(BLOCKS) == 11
    assert set(get_args(OrderName)) == set(ORDERS)
    for order, (stages, kept) in ((name, (order.stages, order.kept)) for name, order in ORDERS.items()):
        brought = [*kept, *(name for stage in stages for name in stage.blocks)]
        assert sorted(brought) == sorted(BLOCKS), order
        assert said_by(order, len(stages) - 1) == ()
        assert sum(stage.share for stage in stages) == pytest.approx(1.0 if stages else 0.0), order
    assert said_by("words", 1) == ("position", "relation", "size", "background", "light")
    assert said_by("middle-first", 0) == ()


def test_a_renewed_block_has_forgotten_and_the_others_have_not():
    torch.manual_seed(0)
    unet = make_unet()
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}
    renew(unet, ["mid.0"])
    same = {name for name, p in unet.named_parameters() if torch.equal(p, before[name])}
    inside = {name for name in before if name.startswith(BLOCKS["mid.0"])}
    assert before.keys() - inside <= same
    assert {name for name in inside if name.endswith("weight") and "norm" not in name} & same == set()


def test_the_cost_of_a_run_is_what_its_tensors_take():
    tokenizer = make_tokenizer(all_captions(3, 300).texts, size=900)
    parts = {
        UNET: make_unet(),
        VAE: make_vae(),
        TEXT: torch.nn.ModuleList([TextEncoders(tokenizer), CaptionReader()]),
    }
    for count, network in parts.items():
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(count, rel=0.1)
    sizes = RecipeSizes(scenes=1000, copies=2, part=100)
    states = CaptionStates(torch.ones(2100, 77, 224).half(), torch.ones(2100, 128).half(), torch.zeros(1, 6))
    bytes_held = sum(t.nbytes for t in (states.context, states.pooled)) + 16 * UNET
    found = recipe_cost(sizes, StageMinutes(), ("base",))
    assert found.memory == pytest.approx(bytes_held + 1000 * (4 * 32 * 32 * 2 + 32 * 32), rel=0.01)
    assert found.checkpoint == 12 * UNET
    whole = recipe_cost(RecipeSizes(), StageMinutes(), ("vae", "text", "base"))
    assert whole.memory < 16e9  # a GPU of 16 GB
    assert whole.hours == pytest.approx((1.0 + 1.5 + 3.5) / 60)


def test_half_precision_is_close_and_its_gradients_reach_the_weights():
    torch.manual_seed(0)
    unet = make_unet()
    x, t, given = _inputs()
    whole, half = given.predict(unet)(x, t), given.predict(halved(unet))(x, t)
    assert float((whole - half).detach().norm() / whole.detach().norm()) < 0.03
    half.square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in unet.parameters())


def test_timesteps_stay_in_range_and_hold_the_share_of_pure_noise():
    later, generator = torch.tensor([749, 499, 249]), torch.Generator().manual_seed(0)
    t = draw_times(20_000, 0.25, later, generator)
    assert int(t.min()) >= 0
    assert int(t.max()) == 999
    assert float((t == 999).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float((t[t < 999, None] == later).any(1).float().mean()) == pytest.approx(0.5, abs=0.02)


def test_captions_are_the_same_for_a_seed_whatever_the_number_of_workers():
    one = all_captions(3, 40, copies=2)
    two = all_captions(3, 40, copies=2, workers=2)
    assert one.texts == two.texts
    assert (one.mentioned == two.mentioned).all()
    assert one.texts[:40] != one.texts[40:]
    assert len(all_captions(3, 40, first=10, only=("position",)).texts) == 10


def test_targets_are_the_scenes_factors():
    table = sample_table(60, 2)
    rows = targets(table)
    for i in range(60):
        scene = table.scene(i)
        for j, name in enumerate(NAMES):
            slot, _, factor = name.rpartition(".")
            if slot == "1" and len(scene.objects) == 1:
                assert rows[i, j] == -100
            else:
                value = scene.factors(int(slot or 0))[factor]
                assert FACTORS[factor][rows[i, j]] == value


def test_the_tokenizer_holds_77_tokens_and_any_text():
    tokenizer = make_tokenizer(all_captions(3, 300).texts, size=900)
    assert tokenizer.model_max_length == 77
    assert tokenize(tokenizer, ["red " * 200, "a zebra! 7 é"]).shape == (2, 77)
    assert tokenizer.decode(tokenizer("a zebra! 7 é").input_ids[1:-1]).replace(" ", "") == "azebra!7é"


def test_training_conditions_drop_some_captions_and_sampling_none():
    states = CaptionStates(torch.ones(400, 77, 8), torch.ones(400, 4), torch.zeros(1, 6))
    given = states.batch(torch.arange(400), torch.zeros(400, 6), torch.Generator().manual_seed(0))
    dropped = (given.context == 0).all(2).all(1)
    assert float(dropped.float().mean()) == pytest.approx(0.08, abs=0.04)
    assert (given.pooled[dropped] == 0).all()
    assert (states.plain().context == 1).all()


def test_an_order_that_keeps_blocks_needs_weights_to_go_on_from(tmp_path):
    made = ShapesRecipe(tmp_path, Accelerator(cpu=True), "colour-moved", RecipeSizes.small(), steps=2)
    with pytest.raises(UnboxError, match=r"goes on from one finished base-.*--start names no folder"):
        _ = made.base


def test_a_finished_last_stage_of_growth_makes_those_before_needless_in_a_pack(tmp_path):
    made = ShapesRecipe(tmp_path / "run", Accelerator(cpu=True), "words-frozen", RecipeSizes.small())

    def ended(name):
        (made.out / name).mkdir(parents=True)
        save_file({"w": torch.ones(3)}, made.out / name / "unet.safetensors")
        (made.out / name / "state.json").write_text('{"step": 1, "done": true, "steps": 1}')
        made.pack(tmp_path / "packed")

    ended("base-words-frozen-0")
    ended("base-words-frozen-1")
    other = tmp_path / "packed" / "base-one-by-one-0.tar"  # of another run into the same folder
    other.write_bytes(b"")
    assert (tmp_path / "packed" / "base-words-frozen-0.tar").is_file()  # a stop after the second needs both
    ended("base-words-frozen-5")
    ended("finish-words-frozen")
    packed = {path.name for path in (tmp_path / "packed").iterdir()}
    assert packed == {"parts.tar", "base-words-frozen-5.tar", "finish-words-frozen.tar", other.name}


@pytest.mark.slow
def test_every_stage_runs_resumes_and_what_it_packs_draws(tmp_path):
    def recipe(out):
        return ShapesRecipe(
            out,
            Accelerator(mixed_precision="bf16", cpu=True),
            "words-frozen",
            RecipeSizes.small(),
            StageMinutes(),
            2,
        )

    made = recipe(tmp_path / "a")
    made.out.mkdir()
    for stage in ("captions", "vae", "text", "base", "finish"):
        run_stage(made, stage)
    made.pack(tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "b")
    again = recipe(tmp_path / "b")
    one, two = (dict(r.finish.named_parameters()) for r in (made, again))
    assert all(torch.allclose(one[k], two[k], atol=2e-3) for k in one)  # packed in half precision
    on = replace(recipe(tmp_path / "c"), order="colour-moved", start=tmp_path / "b")
    shutil.copytree(tmp_path / "b" / "tokenizer", on.out / "tokenizer")
    kept, moved = (dict(r.base.named_parameters()) for r in (again, on))
    assert any(not torch.equal(kept[k], moved[k]) for k in kept)
    folder = again.export(again.finish, "shapes-turbo")
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    (image,) = pipeline("a red circle", num_inference_steps=2, guidance_scale=0.0).images
    assert image.size == (128, 128)
