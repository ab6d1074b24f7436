"""One short run of a method for the tests; `stop=N` sends SIGTERM in the N-th loss of the student's last
stage."""

import os
import signal
from pathlib import Path
from unittest.mock import patch

from unbox.models import load
from unbox.recipes.sdxl.sdxl_settings import TrainingImages
from unbox.recipes.systems import run_method
from unbox.recipes.systems.methods import METHODS

SMALL = {
    "max_train_steps": 2, "batch_size": 2, "lr_warmup_steps": 1, "learning_rate": 1e-3,
    "mixed_precision": "no",
}  # fmt: skip
LORA = {"lora_rank": 2}

#: What is tried: method and settings. Every arm, at sizes that take seconds.
ARMS = {
    "turbo": ("turbo", {"steps": 2}),
    "lightning": ("lightning", {"teacher_steps": 4, "student_steps": (2, 1)}),
    "lightning-mse-x0": (
        "lightning",
        {"teacher_steps": 2, "student_steps": (1,), "arm": "mse", "predict_x0": True, "full": True},
    ),
    "ladd": ("lightning", {"arm": "ladd", "teacher_steps": 2, "student_steps": (1,)}),
    "dmd2": ("lightning", {"arm": "dmd2", "teacher_steps": 4, "student_steps": (2,), "score_turns": 2}),
    "novelai": ("novelai", {"full": True, "snr_floor": 1.0, "conversion_steps": 1}),
    "novelai-nothing": ("novelai", {"full": True, "from_nothing": True}),
    "ncp-dpo": ("ncp", {"losers": "LOSERS", "gradient_accumulation_steps": 1}),
    "ncp-cpo": ("ncp", {"losers": "LOSERS", "objective": "cpo", "gradient_accumulation_steps": 2}),
    "ncp-sft": ("ncp", {"objective": "sft", "gradient_accumulation_steps": 1}),
    "dpo": ("ncp", {"losers": "LOSERS", "space": "output", "gradient_accumulation_steps": 1}),
    "distar": ("distar", {"teacher_steps": 2, "regression_steps": 1}),
    "distar-kl": ("distar", {"distance": "kl", "guidance_place": "out"}),
    "distar-sid": ("distar", {"distance": "sid", "score_turns": 2}),
}


def run(
    model: Path,
    data: Path,
    out: Path,
    arm: str,
    stop: int = -1,
    cache: Path | None = None,
    **options: object,
) -> Path:
    """Train; the folder of the result."""
    name, more = ARMS[arm]
    method = METHODS[name]
    if "losers" in more:
        more = {**more, "losers": str(data.parent / "losers")}
    lora = {} if more.get("full") else LORA
    settings = method.settings(**{**SMALL, **lora, **more, **options})
    images = TrainingImages(data=str(data), square=True, cache=cache)
    usual, count = run_method.MethodBatches.at, 0

    def at(self: run_method.MethodBatches, step: object) -> object:
        nonlocal count
        count += 1
        if count == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return usual(self, step)  # type: ignore[arg-type]

    with patch.object(run_method.MethodBatches, "at", at):
        return run_method.train_method(method, load(model, device="cpu"), images, settings, out, False)
