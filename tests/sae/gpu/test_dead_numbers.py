"""What a captured step reads of the dead latents: where it lies is decided by their number alone."""

from typing import Any, cast

import torch

from unbox.sae.gpu.training import NUMBERS, GPUTraining


def training(n=5000):
    zero = torch.zeros(())
    return GPUTraining(
        cast(Any, None), torch.zeros(n, dtype=torch.int64), zero, torch.zeros(3), 1.0, 1 / 32, 256
    )


def held(of):
    return of.dead, of.held[len(of.dead.ids)][1]


def test_going_up_and_down_by_a_few_captures_nothing_anew():
    of = training()
    of.hold(torch.arange(250))
    first = held(of)
    of.hold(torch.arange(260))
    second = held(of)
    assert second[0] is not first[0]
    for number, expected in ((249, first), (300, second), (1, first)):
        of.hold(torch.arange(number))
        assert held(of)[0] is expected[0]
        assert held(of)[1] is expected[1]
        assert of.dead.ids[:number].tolist() == list(range(number))
        assert (of.dead.ids[number:] == 5000).all()


def test_places_are_those_of_a_run_that_goes_on():
    long, fresh = training(), training()
    for number in (900, 700, 300, 512, 513, 0, 512):
        long.hold(torch.arange(number))
    fresh.hold(torch.arange(512))
    assert len(long.dead.ids) == len(fresh.dead.ids) == 512


def test_few_numbers_are_kept():
    of = training()
    for number in range(0, 5000, 256):
        of.hold(torch.arange(number))
        assert len(of.held) <= NUMBERS
