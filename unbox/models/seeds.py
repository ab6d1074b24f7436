"""Every image has its own seed and its own generator, so batch size and sharding change nothing."""

import hashlib

import numpy as np
import torch

from unbox.validation import Seed, checked

#: Bytes of the state of torch's CPU generator before the words of MT19937: the seed, how many words are left
#: with whether it was seeded, the next word.
_HEADER = 24


def seed_of(value: int | np.integer, name: str = "seed") -> int:
    """A seed: a whole number of 0 to 2^64 - 1, NumPy's too. UnboxError for all else."""
    return checked(Seed, name, value)


def image_seed(run_seed: int, index: int | str) -> int:
    """Seed of an image (or tensor) of a run: the first 32 bits of sha256("run_seed/index")."""
    name = f"{seed_of(run_seed)}/{index}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def generator(seed: int) -> torch.Generator:
    """A generator on the CPU, wherever the model is: the same seed gives the same noise on every device.

    Raises UnboxError for what is no seed. torch's own seeding reads the low 32 bits alone, so that seeds 2^32
    apart would give one picture. Larger seeds therefore set the whole state of its Mersenne Twister from both
    halves (low, high), as `numpy.random.RandomState([low, high])` does; smaller ones are torch's own.
    """
    seed = seed_of(seed)
    made = torch.Generator("cpu")
    if seed < 2**32:
        return made.manual_seed(seed)
    twister = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32]).get_state(legacy=False)
    words: np.ndarray = twister["state"]["key"]
    state = made.get_state().numpy()
    state[:8].view(np.uint64)[0] = seed
    state[8:16].view(np.int32)[:] = 1, 1  # one word left means: draw the next 624 first
    state[16:_HEADER] = 0
    state[_HEADER : _HEADER + 8 * len(words)].view(np.uint64)[:] = words
    made.set_state(torch.from_numpy(state))
    return made
