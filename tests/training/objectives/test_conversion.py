"""eps to v on another schedule."""

import numpy as np
import pytest
import torch

from unbox.training.noise import Noise, scaled_linear, zero_terminal_snr
from unbox.training.objectives.conversion import conversion_loss, same_noise

BEFORE = Noise(scaled_linear(), "epsilon")
AFTER = Noise(zero_terminal_snr(scaled_linear()), "v_prediction", "min-snr", floor=1.0)


def test_timesteps_of_the_same_noise():
    assert same_noise(BEFORE, BEFORE.abar).tolist() == list(range(1000))
    found = same_noise(BEFORE, AFTER.abar)
    assert int(found[0]) == 0
    assert int(found[-1]) == 999
    gaps = (BEFORE.abar[found].sqrt() - AFTER.abar.sqrt()).abs()
    reached = BEFORE.abar[-1] <= AFTER.abar  # beyond, the schedule of before has no such noise
    assert float(gaps[reached].max()) < 1e-3
    assert (found[~reached] == 999).all()


def test_a_student_that_says_the_same_of_x0_loses_nothing():
    """The teacher believes one picture; the v of it, by hand, is the student that loses nothing."""
    value = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    t = torch.tensor([5, 400, 900, 999])
    x_t = torch.randn(4, 4, 8, 8, dtype=torch.float64)

    def teacher(x, when):
        return BEFORE.output(value.expand_as(x), x, when)

    def student(x, when):
        a, s = AFTER.at(when, x).sqrt(), (1 - AFTER.at(when, x)).sqrt()
        return a * (x - a * value) / s - s * value

    assert float(conversion_loss(student, AFTER, teacher, BEFORE, x_t, t)) == pytest.approx(0, abs=1e-9)
    off = conversion_loss(lambda x, when: student(x, when) + 2, AFTER, teacher, BEFORE, x_t, t)
    weight = np.asarray(AFTER.weight(t), float)
    assert float(off) == pytest.approx((4 * weight).mean(), rel=1e-6)
