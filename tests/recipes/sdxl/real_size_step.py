"""One step of `unbox recipe sdxl` at SDXL's real size, on random weights: prints seconds and the most memory.

Run as `python -m tests.recipes.sdxl.real_size_step FOLDER`. Memory is of the whole process: VAE, text
encoders, encoding the image, learning it.
"""

import resource
import sys
import time
from pathlib import Path

import torch

from tests.training.data.pictures import folder_of
from unbox.models.real_size import random_model
from unbox.recipes.sdxl.sdxl_settings import SdxlSettings, TrainingImages
from unbox.recipes.sdxl.train_sdxl import train_sdxl

SETTINGS = SdxlSettings(lora_rank=16, gradient_checkpointing=True, max_train_steps=1)


def peak() -> float:
    """GB of this process at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    place, start = Path(sys.argv[1]), time.monotonic()
    model = random_model("base", torch.bfloat16, "cpu")
    print(f"weights drawn: {time.monotonic() - start:.0f} s, {peak():.2f} GB", flush=True)
    data = folder_of(place / "data", {"a": "a red cat"}, (512, 512))
    images = TrainingImages(data=str(data), resolution=512)
    start = time.monotonic()
    train_sdxl(model, images, SETTINGS, place / "run")
    print(f"encoded and learned: {time.monotonic() - start:.0f} s, {peak():.2f} GB", flush=True)
