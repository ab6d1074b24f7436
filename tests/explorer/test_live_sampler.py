"""Live frames are the pictures of a run, to the bit; what no edit changes is computed once."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor

from unbox.edit import Edits
from unbox.errors import UnboxError
from unbox.explorer.live_sampler import LiveSampler, picture_of, stages


def edit(session, name: str, strength: float) -> Edits:
    return Edits((session.feature(name).add(strength, unit="deviation"),))


@pytest.mark.parametrize("steps", [1, 2])
def test_frames_are_the_pictures_of_runs_to_the_bit(session, recipe, steps):
    one = replace(recipe, steps=steps, seed=41)
    sampler = LiveSampler(session.model("tiny"), one)
    mask = np.zeros((64, 64), np.float32)
    mask[:30] = 1
    masked = Edits((session.feature("up.1.2/2").add(200.0, unit="deviation", where=mask),))
    every = [
        Edits(), edit(session, "up.1.2/1", 300.0), edit(session, "mid.0/1", 100.0), masked,
        edit(session, "mid.0/1", 100.0) + masked, Edits(), edit(session, "up.1.2/1", -300.0),
    ]  # fmt: skip
    for edits in every:
        wanted = replace(one, edits=edits)
        frame = sampler.draw(session.edits_of(wanted))
        (image,) = session.generate([wanted])
        np.testing.assert_array_equal(np.asarray(frame.image), np.asarray(image))
        assert frame.rate > 0


def test_stages_before_the_first_edit_are_computed_once(session, recipe):
    model = session.model("tiny")
    sampler = LiveSampler(model, replace(recipe, steps=1, seed=42))
    names, ran = list(stages(model.unet)), []
    watched = [
        each.resnets[0].register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, each in stages(model.unet).items()
    ]
    late = session.edits_of(replace(recipe, edits=edit(session, "up.1.2/1", 300.0)))
    early = session.edits_of(replace(recipe, edits=edit(session, "mid.0/1", 100.0)))
    try:
        from_late, from_early = (names[names.index(each) :] for each in ("up_blocks.1", "mid_block"))
        for edits, expected in ((late, names), (late, from_late), (early, from_early), (late, from_late)):
            ran.clear()
            sampler.draw(edits)
            assert ran == expected
    finally:
        for handle in watched:
            handle.remove()
    assert not any("forward" in vars(each) for each in stages(model.unet).values())


def test_a_frame_does_not_go_through_all_modules_of_the_unet(session, recipe, monkeypatch):
    model = session.model("tiny")
    sampler = LiveSampler(model, replace(recipe, steps=1, seed=43))
    added = session.edits_of(replace(recipe, edits=edit(session, "up.1.2/1", 300.0)))
    sampler.draw(added)
    every, original, seen = list(model.unet.modules()), torch.nn.Module.named_modules, []

    def counted(self, *args, **kwargs):
        for each in original(self, *args, **kwargs):
            if self is model.unet:
                seen.append(each)
            yield each

    monkeypatch.setattr(torch.nn.Module, "named_modules", counted)
    sampler.draw(added)
    assert len(seen) < len(every) / 10, "2,000 modules in SDXL, some ms each time"


def test_stages_are_those_that_a_search_of_all_modules_finds(session):
    unet = session.model("tiny").unet
    named = dict(unet.named_modules())
    down, up = (
        [each for each in named if re.fullmatch(rf"{kind}_blocks\.\d+", each)] for kind in ("down", "up")
    )
    found = stages(unet)
    assert list(found) == [*down, "mid_block", *up]
    assert all(found[name] is named[name] for name in found)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_a_picture_is_rounded_as_diffusers_rounds_it(kind):
    levels = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    levels[0, :, 0] = (torch.arange(64) + 0.5) / 255  # halves, which are rounded to even numbers
    levels = levels.to(kind)
    (expected,) = VaeImageProcessor().postprocess(levels * 2 - 1)
    (given,) = VaeImageProcessor().postprocess(levels * 2 - 1, output_type="pt")
    np.testing.assert_array_equal(np.asarray(picture_of(given)), np.asarray(expected))


def test_an_error_leaves_the_model_as_it_was(session, recipe):
    model = session.model("tiny")
    sampler = LiveSampler(model, replace(recipe, steps=1))
    handle = model.unet.up_blocks[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sampler.draw(None)
    handle.remove()
    assert not any("forward" in vars(each) for each in stages(model.unet).values())
    assert not model.unet._forward_pre_hooks
    assert model.clock is None


def test_what_is_not_drawn_live_is_refused(session, recipe):
    for wrong in (replace(recipe, guidance=3.0), replace(recipe, negative_prompt="dark")):
        with pytest.raises(UnboxError, match="should have no guidance"):
            LiveSampler(session.model("tiny"), wrong)


def test_edits_that_a_compiled_unet_would_not_call_are_refused(session, recipe, monkeypatch):
    model = session.model("tiny")
    sampler = LiveSampler(model, replace(recipe, steps=1))
    monkeypatch.setattr(model.unet, "_compiled_call_impl", model.unet._call_impl, raising=False)
    added = session.edits_of(replace(recipe, edits=edit(session, "up.1.2/1", 3.0)))
    with pytest.raises(UnboxError, match=r"compiled as a whole, so hooks for up\.1\.2 would never fire"):
        sampler.draw(added)
