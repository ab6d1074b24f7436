"""Options that would do nothing beside others: refused by name when they are typed, whatever their value.

What can be known from the command line alone stands here, a row each; what depends on the model, where it is
sampled (`unbox/models/checks.py`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from unbox.capture.planned_run import PlannedRun
from unbox.cli.model_options import ModelOptions
from unbox.errors import UnboxError
from unbox.models.sampling_options import SamplingOptions
from unbox.online.online_images import OnlineImages
from unbox.recipes.sdxl.sdxl_settings import SdxlSettings, TrainingImages
from unbox.recipes.systems.method_settings import (
    DistarSettings,
    LightningSettings,
    NcpSettings,
    NovelaiSettings,
    TurboSettings,
)
from unbox.sae.plan import SpecGrid, TrainSettings


class Idle(NamedTuple):
    """One row: options, when they would do nothing, and what to do."""

    options: tuple[str, ...]
    """As typed, without the dashes before."""
    when: Callable[[Any], bool]
    """Whether the command, filled from the line, makes no use of them."""
    reason: str


def options_of(group: type) -> tuple[str, ...]:
    """The options of a group, as typed."""
    return tuple(field.name.replace("_", "-") for field in fields(group))


RUN = (*options_of(SpecGrid), *options_of(TrainSettings))
IMAGES = options_of(OnlineImages)
#: Of those, what chooses among the rows of a store too.
ROWS = ("keep-steps", "branches")
MODEL = tuple(name for name in options_of(ModelOptions) if name not in ("model", "device"))
#: Of those, what a comparison of systems says of each.
LOADED = ("model", "system", "unet", "lora", "lora-strength")
NAMED = ("block", "density", "step", "labelled", "order", "limit")

COMPARED = Idle(
    ("model-mismatch",), lambda c: c.saes is None, "is for --saes: there are none to compare with the model"
)


def trained(settings: type) -> tuple[Idle, ...]:
    """What may be idle in every command that trains a UNet on images."""
    return (
        Idle(
            (*options_of(settings), *options_of(TrainingImages)),
            lambda c: c.recipe is not None,
            "is not for --recipe, whose file says settings and images: write it there",
        ),
        Idle(("gpus",), lambda c: not c.dry_run, "is for --dry-run; several processes train under torchrun"),
        Idle(
            ("lora-rank", "lora-alpha", "lora-targets"),
            lambda c: c.settings.full,
            "is of a LoRA, and with --full there is none",
        ),
        Idle(
            ("offload", "lora"),
            lambda c: True,
            "is for drawing: training has the UNet in one place, and begins from a model without a LoRA",
        ),
        Idle(
            ("split", "data-seed"),
            lambda c: c.images.data is not None and not c.images.data.startswith(("shapes", "hub:")),
            "is of shapes or of a data set of the Hub",
        ),
    )


#: Command -> the options that may be idle in it.
IDLE: Mapping[str, Sequence[Idle]] = {
    "collect": (
        Idle(
            ("gpus",), lambda c: not c.dry_run, "is for --dry-run; several processes collect under torchrun"
        ),
        Idle(("rank", "world"), lambda c: c.dry_run, "is not for --dry-run, which plans for all processes"),
        Idle(("on-bad",), lambda c: c.dry_run, "is not for --dry-run, which keeps no image"),
    ),
    "train": (
        Idle(
            ("crosscode", "transcode"),
            lambda c: c.store is None,
            "puts rows of --store side by side; there is none",
        ),
        Idle(
            ("with-stores",),
            lambda c: not (c.crosscode or c.transcode),
            "is for --crosscode, whose sources name them, and --transcode",
        ),
        Idle(("skip",), lambda c: not c.transcode, "is for --transcode, whose transcoders may have one"),
        Idle(
            (
                "crosscode",
                "blocks",
                "init-from",
                "keep-optimizer",
                "keep",
                "trackers",
                "resume",
                "keep-steps",
                "branches",
                "dry-run",
                "gpus",
            ),
            lambda c: bool(c.transcode),
            "is not for --transcode, which trains transcoders; the same line goes on with a stopped run",
        ),
        Idle(
            ("blocks",), lambda c: bool(c.crosscode), "is not for --crosscode, which names its blocks itself"
        ),
        Idle(
            ("plan",),
            lambda c: c.resume and c.store is not None,
            "is not for --resume, which takes SAEs and run from the folder",
        ),
        Idle(
            tuple(name for name in RUN if name != "tokens"),
            lambda c: c.resume,
            "is not for --resume, which takes SAEs and run from the folder",
        ),
        Idle(
            ROWS,
            lambda c: c.resume and c.store is not None,
            "is not for --resume, which takes rows as the run did",
        ),
        Idle(
            RUN,
            lambda c: c.plan is not None and not c.resume,
            "is not for --plan, whose file declares SAEs and run: write it there",
        ),
        Idle(
            ("model", *MODEL, *(name for name in IMAGES if name not in ROWS), "dry-run"),
            lambda c: c.store is not None,
            "is for images that are generated: with --store there are none",
        ),
        Idle(
            IMAGES,
            lambda c: c.plan is not None and c.store is None,
            "is not for --plan, whose table [images] says it: write it there",
        ),
        Idle(
            ("freeze-encoder",),
            lambda c: c.init_from is None or bool(c.transcode),
            "trains the decoder of SAEs that are there: say which, --init-from",
        ),
        Idle(
            ("aux", "aux-k", "scaled"),
            lambda c: c.settings.freeze_encoder,
            "is not for --freeze-encoder, under which no latent is revived and rows are as they are",
        ),
        Idle(
            ("centre", "init"),
            lambda c: c.init_from is not None,
            "is not for --init-from, whose SAEs say where training begins",
        ),
        Idle(("gpus",), lambda c: not c.dry_run, "is for --dry-run; several processes train under torchrun"),
        Idle(
            ("trackers", "keep", "init-from", "keep-optimizer"),
            lambda c: c.dry_run,
            "is not for --dry-run, which trains nothing",
        ),
    ),
    "diff": (
        Idle(
            (
                *("models", "prompts", "limit", "split", "column", "dry-run", "store-dtype"),
                *options_of(SamplingOptions),
                *(name for name in MODEL if name not in LOADED),
            ),
            lambda c: bool(c.stores),
            "is of systems that are drawn: --stores are there already",
        ),
        Idle(LOADED, lambda c: True, "is of one system: say it in --models, MODEL,lora=FOLDER"),
        Idle(
            ("latents", "k", "tokens", "rows"),
            lambda c: c.saes is not None and not (c.settings.alone or c.settings.crosscoders),
            "is of SAEs that are trained: --saes brings them, without --alone and --crosscoders",
        ),
    ),
    "evaluate": (
        Idle(
            ("model", *MODEL),
            lambda c: not c.images,
            "is of a model, which draws images: say how many, --images",
        ),
    ),
    "atlas": (
        Idle(MODEL, lambda c: c.model.model == "none", "is of a model, and with --model none there is none"),
    ),
    "features": (
        Idle(
            MODEL,
            lambda c: not c.model.model,
            "is of a model: name one, whose text encoders search by meaning",
        ),
        Idle(("device",), lambda c: not c.model.model, "is of a model: name one, which searches by meaning"),
        Idle(
            ("order",),
            lambda c: bool(c.model.model),
            "is not for --model: meaning has an order, best match first",
        ),
        Idle(
            NAMED,
            lambda c: _names_one(c.words),
            "is not for a feature's name, which finds that feature alone",
        ),
    ),
    "label": (
        Idle(
            ("limit",),
            lambda c: bool(c.features),
            "is for features that are not named: leave it or --features out",
        ),
    ),
    "recipe sdxl": trained(SdxlSettings),
    "recipe turbo": trained(TurboSettings),
    "recipe lightning": (
        *trained(LightningSettings),
        Idle(("critic-rate",), lambda c: c.settings.arm == "mse", "is of a critic: --arm mse has none"),
        Idle(("score-turns",), lambda c: c.settings.arm != "dmd2", "is for --arm dmd2"),
    ),
    "recipe novelai": trained(NovelaiSettings),
    "recipe ncp": (
        *trained(NcpSettings),
        Idle(
            ("beta", "losers"),
            lambda c: c.settings.objective == "sft" and c.recipe is None,
            "does nothing for --objective sft, which learns the preferred images alone",
        ),
        Idle(("sft",), lambda c: c.settings.objective != "cpo", "is for --objective cpo"),
    ),
    "recipe distar": (
        *trained(DistarSettings),
        Idle(
            ("teacher-steps",),
            lambda c: c.settings.regression_steps == 0,
            "is of the samples that --regression-steps learns: there are no such steps",
        ),
        Idle(("huber-c",), lambda c: c.settings.distance != "huber", "is for --distance huber"),
        Idle(("reward-weight",), lambda c: c.settings.reward is None, "is for a --reward: there is none"),
    ),
    "generate": (
        COMPARED,
        Idle(
            ("strength",),
            lambda c: c.image is None,
            "says how much of --image IMAGE is redrawn; there is no image",
        ),
        Idle(
            ("mask",), lambda c: c.image is None, "says where --image IMAGE is drawn anew; there is no image"
        ),
        Idle(
            ("controlnet", "control-strength"),
            lambda c: c.control is None,
            "is for --control PICTURE, which the ControlNet follows; there is none",
        ),
        Idle(
            ("saes",),
            lambda c: c.edits is None,
            "has no use without --edits FILE, which names features of them",
        ),
        Idle(
            ("edit-strength",),
            lambda c: c.edits is None,
            "says how much of --edits FILE is made; there are no edits",
        ),
        Idle(
            ("height", "width"),
            lambda c: c.aspect is not None,
            "is in the place of --aspect: give --aspect, or --height and --width, not both",
        ),
    ),
    "recipe shapes": (
        Idle(
            ("finish-minutes",),
            lambda c: "finish" not in c.stages,
            "is of the few-step finish, which --stages leaves out",
        ),
        Idle(
            ("start", "unpack", "pack", "device"),
            lambda c: c.dry_run,
            "is not for --dry-run, which trains nothing",
        ),
    ),
    "models": (Idle(options_of(PlannedRun), lambda c: not c.plan, "is of --plan, what a run takes: add it"),),
    "verify": (
        COMPARED,
        Idle(("model",), lambda c: c.source is not None, "names the model a second time: name it once"),
    ),
    "invert": (COMPARED, Idle(("limit",), lambda c: c.saes is None, "is for features, which need --saes")),
}


def refuse_idle(command: str, typed: Sequence[str], form: object) -> None:
    """Raise UnboxError for an option among the `typed` words that `form`, filled from them, does not use."""
    words = [word[2:].split("=")[0].replace("_", "-") for word in typed if word.startswith("--")]
    given = {word.removeprefix("no-"): word for word in words}
    for row in IDLE.get(command, ()):
        if (idle := [name for name in row.options if name in given]) and row.when(form):
            raise UnboxError(f"--{given[idle[0]]} {row.reason}")


def _names_one(words: Sequence[str]) -> bool:
    return len(words) == 1 and re.fullmatch(r".+/\d+", words[0]) is not None
