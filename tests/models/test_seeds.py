import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unbox import UnboxError
from unbox.models.seeds import generator, image_seed, seed_of

LARGE = st.integers(2**32, 2**64 - 1)


def words(seed: int, count: int) -> np.ndarray:
    """The low 31 bits of each 32-bit word that torch draws, as it fills 32-bit whole numbers."""
    return torch.empty(count, dtype=torch.int32).random_(generator=generator(seed)).numpy()


@given(LARGE)
def test_large_seeds_draw_what_numpys_mersenne_twister_draws_from_both_halves(seed):
    oracle = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32])
    drawn = np.frombuffer(oracle.bytes(4 * 1300), "<u4")  # more than two states of 624 words
    assert (words(seed, 1300) == drawn % 2**31).all()
    assert generator(seed).initial_seed() == seed


@given(st.integers(0, 2**32 - 1))
def test_seeds_under_32_bits_are_torchs_own(seed):
    assert torch.equal(generator(seed).get_state(), torch.Generator().manual_seed(seed).get_state())


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**32 - 1))
def test_seeds_that_share_their_low_half_are_distinct(low, high):
    seeds = [low, low + (high << 32), high + (low << 32) + (low == 0)]
    drawn = {torch.randn(20, generator=generator(seed)).numpy().tobytes() for seed in set(seeds)}
    assert len(drawn) == len(set(seeds))


@pytest.mark.parametrize("value", [0, 7, 2**64 - 1, np.int32(7), np.uint64(2**64 - 1), np.array(7)])
def test_whole_numbers_are_seeds(value):
    assert (seed_of(value), type(seed_of(value))) == (int(value), int)


@pytest.mark.parametrize(
    "value",
    [-1, np.int64(-1), 2**64, 10**400, True, np.True_, 1.0, 1.5, float("nan"), "7", b"7", None, [7], 1j],
)
def test_what_is_no_whole_number_of_64_bits_is_refused(value):
    for seeded in (seed_of, generator, lambda seed: image_seed(seed, 0)):
        with pytest.raises(UnboxError, match=r"^seed = .*should be"):
            seeded(value)


def test_pictures_of_seeds_that_share_their_low_half_differ(model):
    seeds = [7, 7 + 2**32, np.uint64(2**64 - 2**32 + 7)]
    given_ = {"steps": 1, "guidance": 0.0, "height": 64, "width": 64, "batch_size": 1}
    images = model.generate("a cat", seeds=seeds, **given_)
    assert [image.info["seed"] for image in images] == [int(seed) for seed in seeds]
    assert len({image.tobytes() for image in images}) == 3
    (again,) = model.generate("a cat", seed=np.int64(7 + 2**32), **given_)
    assert again.tobytes() == images[1].tobytes()
    with pytest.raises(UnboxError, match=r"seeds\[1\] = 2.0: should be a whole number"):
        model.generate("a cat", seeds=[1, 2.0])
