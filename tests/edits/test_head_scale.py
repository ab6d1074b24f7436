"""Heads scaled, beside the mixing of what they wrote."""

import numpy as np
import pytest

from unbox.edits.head_scale import HeadScale
from unbox.errors import UnboxError


def run(model, scale=None, guidance=0.0):
    """What the mixer of mid.0's first layer got and gave, by call, and the pictures."""
    mixer = model.block("mid.0").transformer_blocks[0].attn2.to_out[0]
    before, calls = [], []
    first = mixer.register_forward_pre_hook(lambda _, args: before.append(args[0].detach().clone()))
    options = {"seeds": [1, 2], "steps": 2, "guidance": guidance, "height": 32, "width": 32}
    last = mixer.register_forward_hook(lambda _, args, out: calls.append((before[-1], out.detach().clone())))
    try:
        images = model.generate(["a cat", "a dog"], edits=[scale, None], **options)
    finally:
        first.remove()
        last.remove()
    weight, bias = mixer.weight.detach().numpy(), mixer.bias.detach().numpy()
    return calls, images, weight, bias


def test_a_heads_writing_is_multiplied_for_its_image_step_and_branch(tiny):
    heads = tiny.block("mid.0").transformer_blocks[0].attn2.heads
    scale = HeadScale("mid.0", (1,), -2.0, layers=(0,), steps=(1, 2))
    calls, _, weight, bias = run(tiny, scale)
    assert len(calls) == 2
    for step, (given, made) in enumerate(calls):
        written = given.numpy().reshape(*given.shape[:2], heads, -1).copy()
        if step == 1:
            written[0, :, 1] *= -2
        expected = written.reshape(given.shape) @ weight.T + bias
        np.testing.assert_allclose(made.numpy(), expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*guidance is distilled")
def test_a_branch_alone(tiny):
    scale = HeadScale("mid.0", (0,), layers=(0,), branch="cond")
    calls, _, weight, bias = run(tiny, scale, guidance=3.0)
    given, made = calls[0]
    assert len(given) == 4  # uncond of both, cond of both
    plain = given.numpy() @ weight.T + bias
    changed = [bool(np.abs(m - p).max() > 1e-4) for m, p in zip(made.numpy(), plain, strict=True)]
    assert changed == [False, False, True, False]


def test_without_heads_the_picture_is_another_and_afterwards_the_same(tiny):
    _, plain, *_ = run(tiny)
    _, scaled, *_ = run(tiny, HeadScale("mid.0", (0, 1)))
    _, again, *_ = run(tiny, HeadScale("mid.0", (0, 1), 1.0))
    assert not np.array_equal(plain[0], scaled[0])
    assert np.array_equal(plain[1], scaled[1])
    assert all(np.array_equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"block": "mid.0", "heads": (99,)}, "heads = 99: should be one of mid.0's heads"),
        ({"block": "mid.0", "heads": (0,), "layers": (7,)}, "has no transformer layer 7"),
        ({"block": "mid.0", "heads": (0,), "branch": "contrast"}, "should be one of 'both'"),
        ({"block": "attic", "heads": (0,)}, "name of a block"),
    ],
)
def test_what_is_not_there_is_refused(tiny, given, message):
    with pytest.raises(UnboxError, match=message), HeadScale(**given).attach(tiny):
        pass
