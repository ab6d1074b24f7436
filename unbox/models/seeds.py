"""Every image has its own seed and its own generator, so batch size and sharding change nothing."""

import hashlib

import torch


def image_seed(run_seed: int, index: int | str) -> int:
    """Seed of an image (or tensor) of a run: the first 32 bits of sha256("run_seed/index"), on any machine.

    32 bits, because torch's CPU generator reads no more than the low 32 bits of a seed.
    """
    return int.from_bytes(hashlib.sha256(f"{run_seed}/{index}".encode()).digest()[:4], "big")


def generator(seed: int) -> torch.Generator:
    """A generator on the CPU, wherever the model is: the same seed gives the same noise on every device."""
    return torch.Generator("cpu").manual_seed(seed)
