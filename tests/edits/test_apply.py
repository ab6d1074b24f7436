"""Edits on a running SDXL: which rows, steps and branches they touch, and that they leave nothing behind."""

import numpy as np
import pytest
import torch

from tests.edits.dictionaries import dense, random_sae
from unbox.edit import Block, Direction, Edits, Feature
from unbox.edits import Guard, applied, guarded
from unbox.edits.edited_block import EditedBlock, ImageEdits
from unbox.edits.program import Program
from unbox.errors import UnboxError

DEEP = ("down.2.1", "mid.0", "up.0.0", "up.0.1")
SAES = {block: random_sae(block, width=128, latents=256, k=8, seed=i) for i, block in enumerate(DEEP)}
PROMPTS = ["a cat", "a red boat", "the moon above a tree"]
SEEDS = [1, 2, 3]


def feature(index, block="up.0.1"):
    return SAES[block].feature(index)


def draw(model, edits=None, prompts=PROMPTS, seeds=SEEDS, **options):
    options = {"steps": 2, "guidance": 0.0, "height": 64, "width": 64, "output": "latent", **options}
    return torch.stack(
        [torch.as_tensor(x) for x in model.generate(prompts, seeds=seeds, edits=edits, **options)]
    )


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.unet.modules())


@pytest.fixture(scope="module")
def plain(tiny):
    return draw(tiny)


STRONG = Direction("mid.0", np.linspace(-3, 3, 128)).add(3)

IDENTITIES = {
    "none": None,
    "add 0": feature(3).add(0),
    "scale 1": feature((3, 4)).scale(1) + Block("mid.0").scale(1),
    "empty mask": feature(3).add(5, where=np.zeros((3, 3))),
    "other steps": feature(3).ablate(steps=(7, 9)) + feature(3).add(100, unit="absolute", steps=(2, 3)),
    "other branch": feature(3).add(100, unit="absolute", branch="uncond"),
    "add and subtract": feature(3).add(2) + feature(3).add(-2),
    "inactive features": feature(3).scale(5, above=1e9),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identities_leave_every_bit(tiny, plain, name):
    assert torch.equal(draw(tiny, IDENTITIES[name]), plain)


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_add_and_its_negative_in_nested_runs_restore_within_rounding(tiny, guidance):
    before = draw(tiny, guidance=guidance)
    with applied(tiny, STRONG):
        assert not torch.allclose(draw(tiny, guidance=guidance), before, atol=1e-2)
        back = Direction("mid.0", np.linspace(-3, 3, 128)).add(-3)
        assert torch.allclose(draw(tiny, back, guidance=guidance), before, atol=1e-3)


class Spy:
    """Updates of blocks as the rest of the model sees them."""

    def __init__(self, model, block):
        self.updates = []
        self.handle = model.block(block).register_forward_hook(self.see, with_kwargs=True)

    def see(self, module, args, kwargs, output):
        self.updates.append((output[0] - args[0]).permute(0, 2, 3, 1))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.handle.remove()


def updates(model, edits, block, **options):
    """(step, row, y, x, d): after the edits where they are of this block."""
    with applied(model, edits), Spy(model, block) as spy:
        draw(model, **options)
    return torch.stack(spy.updates)


def test_an_add_moves_the_update_by_its_vector_at_its_steps_and_places(tiny):
    before = updates(tiny, None, "up.0.1")
    after = updates(tiny, feature(9).add(40, unit="absolute", where=(0, 0, 0.5, 1), steps=0), "up.0.1")
    expected = torch.zeros_like(before[0])
    expected[:, :, :4] = 40 * SAES["up.0.1"].W_dec[9]
    assert torch.allclose(after[0] - before[0], expected, atol=1e-4)


def test_a_scale_moves_the_update_by_its_codes(tiny):
    before = updates(tiny, None, "mid.0", steps=1)[0]
    codes = dense(SAES["mid.0"], before)
    active = int(codes.flatten(0, -2).mean(0).argmax())
    after = updates(tiny, feature(active, "mid.0").scale(3), "mid.0", steps=1)[0]
    assert torch.allclose(after - before, 2 * codes[..., [active]] * SAES["mid.0"].W_dec[active], atol=1e-3)


@pytest.mark.parametrize(
    ("branch", "signs"), [("both", (1, 1)), ("cond", (0, 1)), ("uncond", (1, 0)), ("contrast", (-1, 1))]
)
def test_guidance_puts_edits_on_the_right_rows_of_a_batch(tiny, branch, signs):
    edit = Direction("mid.0", [30.0] + [0.0] * 127).add(1, branch=branch)
    options = {"guidance": 5.0, "steps": 1}
    moved = (updates(tiny, edit, "mid.0", **options) - updates(tiny, None, "mid.0", **options))[0, ..., 0]
    uncond, cond = moved[:3], moved[3:]
    assert torch.allclose(uncond, torch.full_like(uncond, 30.0 * signs[0]), atol=1e-3)
    assert torch.allclose(cond, torch.full_like(cond, 30.0 * signs[1]), atol=1e-3)


@pytest.mark.parametrize(("guidance", "batch_size"), [(0.0, 2), (4.0, 1), (4.0, 2), (4.0, 8)])
def test_each_image_of_a_batch_has_its_own_edits(tiny, guidance, batch_size):
    edits = [None, STRONG, feature(5).add(60, unit="absolute") + feature((1, 2), "mid.0").scale(-2)]
    options = {"guidance": guidance, "batch_size": batch_size, "steps": 1}
    together = draw(tiny, edits, **options)
    for i, edit in enumerate(edits):
        alone = draw(tiny, edit, prompts=PROMPTS[i], seeds=[SEEDS[i]], guidance=guidance, steps=1)
        assert torch.allclose(together[i], alone[0], atol=2e-3)
    assert not torch.allclose(together, draw(tiny, **options), atol=1e-2)


def test_edits_on_four_blocks_at_once_are_the_edits_one_by_one_at_each_block(tiny):
    edits = [feature(7, block).add(5, unit="absolute", steps=0) for block in DEEP]
    together = edits[0] + edits[1] + edits[2] + edits[3]
    for block, edit in zip(DEEP, edits, strict=True):
        moved = updates(tiny, together, block, steps=1)
        others = Edits(tuple(other for other in edits if other is not edit))
        without = updates(tiny, others, block, steps=1)
        assert torch.allclose(moved - without, (5 * SAES[block].W_dec[7]).expand_as(moved), atol=1e-3)


def test_ablating_a_block_is_running_without_it(tiny):
    def skip(module, args, kwargs, output):
        return (args[0], *output[1:])

    handle = tiny.block("up.1.2").register_forward_hook(skip, with_kwargs=True)
    expected = draw(tiny)
    handle.remove()
    assert torch.allclose(draw(tiny, Block("up.1.2").ablate()), expected, atol=1e-4)


def test_the_reconstruction_stands_in_for_the_update(tiny):
    before = updates(tiny, None, "up.0.0", steps=1)
    after = updates(tiny, Block("up.0.0").reconstruct(SAES["up.0.0"]), "up.0.0", steps=1)
    sae = SAES["up.0.0"]
    assert torch.allclose(after, sae.decode(sae.encode(before)), atol=1e-3)


def test_recorded_inside_is_edited_and_outside_is_not(tiny):
    with Spy(tiny, "mid.0") as outside, applied(tiny, STRONG), Spy(tiny, "mid.0") as inside:
        draw(tiny, steps=1)
    assert torch.allclose(inside.updates[0] - outside.updates[0], 3 * torch.linspace(-3, 3, 128), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pipelines_take_single_precision_saes(dtype):
    update = torch.randn(2, 128, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    edits = feature(1, "mid.0").add(3) + feature((4, 9), "mid.0").scale(-1) + Block("mid.0").scale(0.5)
    site = EditedBlock([ImageEdits(Program(tuple(edits), 128))])
    run = type("Run", (), {"step": 0, "branches": ("cond",) * 2, "samples": np.arange(2)})
    hidden = torch.zeros_like(update)
    half = site.edited(hidden, update, run)
    full = site.edited(hidden.float(), update.float(), run)
    assert half.dtype == dtype
    assert torch.allclose(half.float(), full, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind_when_a_run_is_stopped(tiny, plain, error):
    before = hooks(tiny)

    def stop(*_):
        raise error

    handle = tiny.block("up.1.0").register_forward_hook(stop)
    with pytest.raises(error), applied(tiny, STRONG + feature(3).scale(4)):
        draw(tiny, [None, feature(1).add(5), STRONG])
    handle.remove()
    assert hooks(tiny) == before
    assert torch.equal(draw(tiny), plain)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Feature("down.0.0", 1, sae=SAES["mid.0"]).add(1), "no block 'down.0.0'"),
        (Feature("mid.0", 1).scale(2), "carries no SAE"),
        (Feature("up.1.0", 1, sae=SAES["mid.0"]).add(1), "128 channels"),
    ],
)
def test_mistakes_are_found_before_the_run(tiny, edit, message):
    before = hooks(tiny)
    with pytest.raises(UnboxError, match=message):
        draw(tiny, STRONG + edit)
    assert hooks(tiny) == before


def test_a_guard_keeps_norms_inside_and_reports(tiny):
    guard = Guard({"mid.0": (0.0, 5.0)})
    with applied(tiny, STRONG, guard), Spy(tiny, "mid.0") as spy:
        draw(tiny)
    assert max(float(u.norm(dim=-1).max()) for u in spy.updates) <= 5.0 + 1e-2
    assert guard.report()["mid.0"] > 0.9
    assert torch.equal(draw(tiny, guarded(STRONG, guard)), draw(tiny, guarded(STRONG, guard)))


def test_any_resolution(tiny):
    edit = feature(3).add(20, unit="absolute", where=np.eye(11))
    sizes = {"height": 96, "width": 64, "steps": 1}
    assert not torch.allclose(draw(tiny, edit, **sizes), draw(tiny, **sizes), atol=1e-3)


@pytest.mark.parametrize(("side", "grid"), [(128, 16), (256, 32)], ids=["SDXL at 512", "SDXL at 1024"])
@pytest.mark.parametrize("mask_side", [1, 6000])
def test_masks_of_any_size_on_the_grids_of_sdxl(tiny, side, grid, mask_side):
    mask = np.zeros((mask_side, mask_side), bool)
    mask[: max(mask_side // 2, 1)] = True
    options = {"height": side, "width": side, "steps": 1, "prompts": PROMPTS[:1], "seeds": SEEDS[:1]}
    edit = feature(9).add(40, unit="absolute", where=mask)
    moved = updates(tiny, edit, "up.0.1", **options)[0] - updates(tiny, None, "up.0.1", **options)[0]
    assert moved.shape[1:3] == (grid, grid)
    inside = grid if mask_side == 1 else grid // 2
    expected = 40 * SAES["up.0.1"].W_dec[9]
    assert torch.allclose(moved[:, :inside], expected.expand_as(moved[:, :inside]), atol=1e-3)
    assert not moved[:, inside:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_whole_runs_in_half_precision(tiny_folder, dtype):
    """Identities stay exact, an add with its negative comes back within the type's rounding."""
    from unbox import load

    model = load(str(tiny_folder), dtype=dtype)
    # One small image: a CPU computes float16 slowly.
    options = {"prompts": PROMPTS[:1], "seeds": SEEDS[:1], "height": 32, "width": 32}
    options |= {"steps": 1, "guidance": 3.0}
    plain = draw(model, **options).float()
    assert torch.equal(draw(model, IDENTITIES["add and subtract"], **options).float(), plain)
    edit = feature((3, 4), "mid.0").scale(4) + feature(3).add(100, unit="absolute", branch="contrast")
    edited = draw(model, edit, **options).float()
    assert edited.isfinite().all()
    with applied(model, STRONG):
        back = Direction("mid.0", np.linspace(-3, 3, 128)).add(-3)
        restored = draw(model, back, **options).float()
    spread = (edited - plain).square().mean().sqrt()
    assert (restored - plain).square().mean().sqrt() < 0.5 * spread


def test_sequential_guidance_edits_the_branch_that_runs(tiny):
    """A loop that runs the branches one after the other says which is which."""
    from unbox.models.clock import clock

    edit = Direction("mid.0", [30.0] + [0.0] * 127).add(1, branch="contrast")
    added = {"text_embeds": torch.zeros(2, 32), "time_ids": torch.zeros(2, 6)}
    tiny.pipeline.scheduler.set_timesteps(2)
    moved = {}
    for branch in ("uncond", "cond"):
        seen = []
        for edits in (None, edit):
            with clock(tiny) as now, now.rows(branches=(branch,) * 2), applied(tiny, edits):
                with Spy(tiny, "mid.0") as spy, torch.no_grad():
                    tiny.unet(torch.zeros(2, 4, 32, 32), 999, torch.zeros(2, 77, 64), added_cond_kwargs=added)
            seen += spy.updates
        moved[branch] = seen[1] - seen[0]
    for branch, sign in (("cond", 1), ("uncond", -1)):
        assert torch.allclose(moved[branch][..., 0], torch.tensor(30.0 * sign), atol=1e-3)
        assert torch.allclose(moved[branch][..., 1:], torch.zeros(()), atol=1e-3)


def test_a_cancelled_run_leaves_nothing_behind(tiny, plain):
    """diffusers' own way to stop a run: `interrupt`, set from the callback of a step."""
    before, steps = hooks(tiny), []

    def cancel(pipeline, step, *_):
        steps.append(step)
        pipeline._interrupt = True
        return {}

    with applied(tiny, STRONG):
        tiny.pipeline(
            "a cat", num_inference_steps=4, guidance_scale=0.0, height=64, width=64,
            output_type="latent", callback_on_step_end=cancel,
        )  # fmt: skip
    assert steps == [0]
    assert hooks(tiny) == before
    assert torch.equal(draw(tiny), plain)


def test_before_and_after_are_recorded_in_one_run(tiny):
    from unbox import record

    with record(tiny, ["mid.0"]) as before, applied(tiny, STRONG), record(tiny, ["mid.0"]) as after:
        draw(tiny, steps=1)
    moved = after["mid.0"] - before["mid.0"]
    assert torch.allclose(moved, (3 * torch.linspace(-3, 3, 128)).expand_as(moved), atol=1e-3)
