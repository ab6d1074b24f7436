"""What `unbox recipe sdxl` is told: images, network, optimizer, noise. Values only, no torch."""

from pathlib import Path
from typing import Annotated, Literal, Protocol

from annotated_types import Gt, Lt

from unbox.errors import FieldError, UnboxError
from unbox.text_files import read_toml_file
from unbox.validation import (
    BatchSize,
    Count,
    FilePath,
    NotNegative,
    Positive,
    Real,
    Seed,
    Share,
    Side,
    Text,
    Whole,
    parsed,
    validated,
)

#: Table of a recipe's file.
TABLE = "images"

Rate = Annotated[Real, Gt(0), Lt(1)]


@validated(kw_only=True)
class TrainingImages:
    """Which images are learned, and how they are cut."""

    data: Text | None = None
    """Images with captions: a folder (captions in .txt or .caption beside them, or metadata.jsonl),
    WebDataset tars (x-{000..099}.tar, x-*.tar, a folder of them, or URLs), hub:NAME (`datasets`; also a
    folder of Parquet), or shapes.
    """
    limit: Count | None = None
    """At most so many images; needed with shapes, whose scenes have no end."""
    split: Text | None = None
    """Split of shapes (train, heldout) or of a Hub data set; None: train. Files have none."""
    data_seed: Seed = 0
    """Which scenes of shapes."""
    caption: Text | None = None
    """Caption of images that have none of their own."""
    caption_column: Text | None = None
    """Column (or JSON key) of the captions; None: the first of text, caption and prompt."""
    resolution: Side | None = None
    """Side of a square image in pixels, which other shapes have the area of; None: the model's own."""
    square: bool = False
    """Cut every image to a square, instead of SDXL's 40 aspect ratios."""
    random_crop: bool = False
    """Cut images that do not fit their size at a place drawn once for each, instead of in the middle."""
    cache: FilePath | None = None
    """Folder of cached latents and text embeddings, which runs on the same images may share (those of
    --losers lie in FOLDER-losers); None: `cache` in --out."""


@validated(kw_only=True)
class TrainingSettings:
    """What every recipe that trains a UNet is told: network, steps, optimizer."""

    lora_rank: Count = 16
    """Rank of the LoRA."""
    lora_alpha: Count | None = None
    """The LoRA is multiplied by alpha / rank; None: as the rank, so by 1."""
    lora_targets: Literal["attention", "transformer"] = "attention"
    """Layers with a LoRA: queries, keys, values and outputs of attention; or all linear layers of transformer
    blocks."""
    full: bool = False
    """Train every weight of the UNet instead of a LoRA."""
    max_train_steps: Count = 1000
    """Optimizer steps."""
    batch_size: BatchSize = 1
    """Images of a batch in each process."""
    gradient_accumulation_steps: Annotated[Whole, Gt(0), Lt(65536)] = 1
    """Batches whose gradients make one step."""
    learning_rate: Rate = 1e-4
    """Largest learning rate; it follows steps alone."""
    lr_warmup_steps: Count = 100
    """Steps in which the learning rate rises."""
    decay_from: Annotated[Share, Lt(1)] = 0.0
    """Share of the steps from which the learning rate falls to zero, by a cosine."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon for matrices and AdamW for the rest."""
    ema: Annotated[Share, Lt(1)] | None = None
    """Decay of averaged weights, which are then what is written; None: the last weights."""
    max_grad_norm: Positive = 1.0
    """Largest norm of the gradient."""
    seed: Seed = 0
    """Seed of batches, noise, timesteps and the LoRA's first weights."""
    mixed_precision: Literal["bf16", "no"] = "bf16"
    """Compute in bfloat16, what is trained in float32; no: in float32 throughout."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    save_minutes: Positive = 10.0
    """Minutes between checkpoints."""

    def __post_init__(self) -> None:
        if self.full and self.lora_alpha is not None:
            raise FieldError("", "lora_alpha", self.lora_alpha, "is of a LoRA, and with full there is none")


class NoiseSettings(Protocol):
    """What of a recipe's settings changes its model's noise."""

    @property
    def prediction(self) -> Literal["epsilon", "v_prediction"] | None:
        """What is learned; None: what the model predicts."""
        ...

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the last timestep is pure noise."""
        ...

    @property
    def snr_gamma(self) -> float | None:
        """Gamma of Min-SNR; None: unweighted."""
        ...

    @property
    def snr_floor(self) -> float:
        """Least weight."""
        ...

    @property
    def noise_offset(self) -> float:
        """Deviation of a channel's noise as a whole."""
        ...

    @property
    def full(self) -> bool:
        """Whether the UNet is trained whole."""
        ...


@validated(kw_only=True)
class SdxlSettings(TrainingSettings):
    """What is trained, and how."""

    shard: bool = False
    """Share weights, gradients and optimizer among the processes (FSDP) instead of a copy in each; for
    --full."""
    caption_dropout: Share = 0.1
    """Share of examples that are learned without their caption, so that guidance works."""
    snr_gamma: Positive | None = None
    """Min-SNR weighting of the loss with this gamma (5 in the paper); None: unweighted."""
    snr_floor: NotNegative = 0.0
    """Least weight of a timestep under Min-SNR."""
    noise_offset: NotNegative = 0.0
    """Deviation of what is added to each channel of the noise as a whole (0.05 for SDXL)."""
    zero_terminal_snr: bool = False
    """Rescale the noise schedule so that the last timestep is pure noise; needs v_prediction."""
    prediction: Literal["epsilon", "v_prediction"] | None = None
    """What the UNet learns to predict; None: what it predicts already. Another one needs --full."""

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        if self.shard and not self.full:
            raise FieldError(
                "", "shard", True, "is for full: a LoRA's states are small, each process has them"
            )
        if self.shard and self.optimizer == "muon":
            raise FieldError("", "shard", True, "is for adamw: Muon needs whole matrices")
        if self.snr_floor and self.snr_gamma is None:
            raise FieldError("", "snr_floor", self.snr_floor, "is for Min-SNR: give snr_gamma too")
        if self.prediction is not None and not self.full:
            raise FieldError("", "prediction", self.prediction, "is for full: a LoRA keeps its model's")


@validated(kw_only=True)
class PlannedRecipe(SdxlSettings):
    """A recipe's file: the settings, and a table `[images]`."""

    images: TrainingImages = TrainingImages()


def read_recipe(path: Path) -> PlannedRecipe:
    """The settings and images of a TOML file. Raises UnboxError, naming file and key, for what is none."""
    content = read_toml_file(path)
    table = content.pop(TABLE, {})
    images = parsed(TrainingImages, table, f"{path}: [{TABLE}]")
    if images.data is None:
        raise UnboxError(f"{path}: [{TABLE}] says no data to learn from")
    return parsed(PlannedRecipe, {**content, TABLE: images}, str(path))
