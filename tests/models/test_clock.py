import numpy as np
import pytest
import torch

from unbox.errors import UnboxError
from unbox.models import Micro, clock
from unbox.models.hooks import as_hook


class Watch:
    """A hook that notes the clock at every forward of a block."""

    def __init__(self):
        self.seen = []

    def attach(self, model, rows=None):
        from contextlib import contextmanager

        @contextmanager
        def attached():
            with clock(model) as now:
                note = lambda *_: self.seen.append(now.moment)  # noqa: E731
                handle = model.block("mid.0").register_forward_hook(note)
                try:
                    yield
                finally:
                    handle.remove()

        return attached()


def hooks(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.unet.modules())


def call(model, rows, timestep):
    """A bare UNet forward."""
    added = {"text_embeds": torch.zeros(rows, 32), "time_ids": torch.zeros(rows, 6)}
    with torch.no_grad():
        return model.unet(
            torch.zeros(rows, 4, 32, 32), timestep, torch.zeros(rows, 77, 64), added_cond_kwargs=added
        )


def test_steps_branches_and_images_over_batches(model):
    watch = Watch()
    model.generate(["a cat"] * 3, seed=0, steps=3, guidance=3.0, batch_size=2, hooks=[watch], output="latent")
    assert [m.step for m in watch.seen] == [0, 1, 2, 0, 1, 2]
    assert [m.timestep for m in watch.seen[:3]] == [999, 666, 332]
    assert {m.branches for m in watch.seen[:3]} == {("uncond", "uncond", "cond", "cond")}
    assert {tuple(m.samples) for m in watch.seen[:3]} == {(0, 1, 0, 1)}
    assert {m.branches for m in watch.seen[3:]} == {("uncond", "cond")}
    assert {tuple(m.samples) for m in watch.seen[3:]} == {(2, 2)}


def test_two_prompts_without_guidance_are_not_two_branches(model):
    """Batch size two reads as guidance to tools that guess."""
    watch = Watch()
    with watch.attach(model):
        model.pipeline(["a cat", "a dog"], num_inference_steps=2, guidance_scale=0.0, output_type="latent")
    assert {m.branches for m in watch.seen} == {("cond", "cond")}
    assert [m.step for m in watch.seen] == [0, 1]


def test_a_bare_pipeline_call_with_guidance(model):
    watch = Watch()
    with watch.attach(model):
        model.pipeline("a cat", num_inference_steps=2, guidance_scale=4.0, output_type="latent")
    assert {m.branches for m in watch.seen} == {("uncond", "cond")}
    assert {tuple(m.samples) for m in watch.seen} == {(0, 0)}


def test_a_bare_unet_call_does_not_inherit_the_last_calls_guidance(model):
    with clock(model) as now:
        model.pipeline("a cat", num_inference_steps=2, guidance_scale=4.0, output_type="latent")
        call(model, 2, model.pipeline.scheduler.timesteps[1])
        assert now.branches == ("cond", "cond")
        assert now.samples.tolist() == [0, 1]
        assert now.step == 1


def test_a_second_visit_of_a_timestep_is_the_same_step(model):
    """The step is not a count of calls."""
    model.pipeline.scheduler.set_timesteps(4)
    with clock(model) as now:
        for index in (2, 2, 0):
            call(model, 1, model.pipeline.scheduler.timesteps[index])
            assert now.step == index


def test_sequential_guidance_is_said(model):
    model.pipeline.scheduler.set_timesteps(2)
    with clock(model) as now, now.rows(branches=["uncond"], samples=[5]):
        call(model, 1, model.pipeline.scheduler.timesteps[0])
        assert now.branches == ("uncond",)
        assert now.samples.tolist() == [5]


def test_what_cannot_be_known_is_an_error(model):
    model.pipeline.scheduler.set_timesteps(2)
    with clock(model) as now:
        with pytest.raises(UnboxError, match="no step yet"):
            _ = now.step
        with pytest.raises(UnboxError, match=r"timestep 7, which is not one of the scheduler's \(999, 499\)"):
            call(model, 1, torch.tensor(7.0))
        with pytest.raises(UnboxError, match="different timesteps"):
            call(model, 2, torch.tensor([999.0, 499.0]))
        with now.rows(samples=[0, 1, 2]), pytest.raises(UnboxError, match="2 rows"):
            call(model, 2, 499.0)


def test_the_clock_is_one_and_leaves_nothing(model):
    before = hooks(model)
    with clock(model) as outer:
        with clock(model) as inner:
            assert inner is outer
        assert model.clock is outer
    with pytest.raises(RuntimeError, match="on purpose"):
        with Watch().attach(model):
            raise RuntimeError("on purpose")
    assert hooks(model) == before
    assert model.clock is None
    assert "progress_bar" not in vars(model.pipeline)


def test_an_exception_while_sampling_leaves_nothing(model):
    class Fails(Watch):
        def attach(self, model, rows=None):
            return model.block("mid.0").register_forward_hook(self.fail)

        def fail(self, *_):
            raise RuntimeError("on purpose")

    before = hooks(model)
    micro = Micro(crop=(8, 8))
    with pytest.raises(RuntimeError, match="on purpose"):
        model.generate("a cat", seed=0, steps=2, micro=micro, hooks=[Fails()])
    assert hooks(model) == before
    assert model.clock is None


def test_the_clock_changes_no_bit(model):
    arguments = {"num_inference_steps": 3, "output_type": "np"}
    plain = model.pipeline("a cat", generator=torch.Generator().manual_seed(1), **arguments).images
    with clock(model):
        watched = model.pipeline("a cat", generator=torch.Generator().manual_seed(1), **arguments).images
    assert np.array_equal(plain, watched)


def test_only_hooks_attach():
    watch = Watch()
    assert as_hook(watch) is watch
    with pytest.raises(UnboxError, match="a int cannot be attached"):
        as_hook(3)
