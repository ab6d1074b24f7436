"""One run of the recipe, as a script for the tests of stops and of several processes: run_sdxl.py MODEL DATA
OUT [OPTION=VALUE ...]; `stop=N` sends SIGTERM to the first process in step N."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import torch

from unbox.models import load
from unbox.ranks import ranks
from unbox.recipes.sdxl import train_sdxl
from unbox.recipes.sdxl.sdxl_settings import SdxlSettings, TrainingImages
from unbox.stopping import Stopped, stopping

SMALL = {"lora_rank": 2, "max_train_steps": 4, "batch_size": 1, "lr_warmup_steps": 1, "learning_rate": 1e-2}


def run(model: Path, data: Path, out: Path, stop: int = -1, **options: object) -> Path:
    """Train; the folder of the result."""
    settings = SdxlSettings(**{**SMALL, "mixed_precision": "no", **options})  # type: ignore[arg-type]
    usual = train_sdxl.CachedBatches.at

    def at(self: train_sdxl.CachedBatches, step: int, part: int) -> object:
        if step == stop and ranks().rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return usual(self, step, part)

    with patch.object(train_sdxl.CachedBatches, "at", at):
        return train_sdxl.train_sdxl(
            load(model, device="cpu"), TrainingImages(data=str(data)), settings, out, progress=False
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = dict(word.split("=") for word in sys.argv[4:])
    read = {"True": True}
    options = {
        name: read.get(value) or (float(value) if "." in value else int(value))
        for name, value in given.items()
    }
    with suppress(Stopped), stopping():
        run(*map(Path, sys.argv[1:4]), **options)
