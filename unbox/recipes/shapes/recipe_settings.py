"""How much is drawn and how long each stage trains: values only, without torch."""

from typing import Annotated, Literal

from annotated_types import Ge

from unbox.memory_limit import size_text
from unbox.validation import Amount, Count, Positive, Whole, validated

Stage = Literal["captions", "vae", "text", "detector", "critic", "base", "finish"]
OrderName = Literal[
    "words-frozen", "words", "middle-first", "one-by-one", "four-first", "colour-moved", "again"
]
#: A caption that mentions two objects and a share of one in four need a few scenes at least.
Scenes = Annotated[Whole, Ge(16)]


@validated
class RecipeSizes:
    """Scenes drawn, captions of each, batches, pairs; `small()` for trying."""

    scenes: Scenes = 120_000
    """Training scenes."""
    copies: Count = 2
    """Captions of each scene."""
    vae_pool: Scenes = 40_000
    """Pictures that the VAE learns from."""
    critic_pool: Scenes = 60_000
    """Pictures that each detector learns from."""
    part: Scenes = 40_000
    """Scenes whose captions mention only some factors, in the stages that need them."""
    vae_batch: Count = 64
    """Pictures of a step of the VAE."""
    text_batch: Count = 1024
    """Captions of a step of the text encoders."""
    unet_batch: Count = 256
    """Pictures of a step of the UNet."""
    critic_batch: Count = 256
    """Pictures of a step of a detector."""
    exam: Scenes = 512
    """Captions, held out, of each figure in the reports."""

    @classmethod
    def small(cls) -> "RecipeSizes":
        """For trying."""
        return cls(300, 2, 64, 64, 200, 4, 4, 8, 8, 16)


@validated
class StageMinutes:
    """How long each stage trains; its steps follow from its pace."""

    vae_minutes: Positive = 1.0
    """Minutes of the VAE."""
    text_minutes: Positive = 1.5
    """Minutes of the text encoders."""
    detector_minutes: Positive = 1.0
    """Minutes of the detector."""
    critic_minutes: Positive = 1.0
    """Minutes of the second critic."""
    base_minutes: Positive = 3.5
    """Minutes of the many-step UNet, over all its stages of growth."""
    finish_minutes: Positive = 1.5
    """Minutes of the few-step finish."""


@validated
class RecipeCost:
    """What a run takes, before it begins."""

    memory: Amount
    """Bytes at once: what is drawn and read beforehand, networks that learn and their optimizers."""
    checkpoint: Amount
    """Bytes of the largest checkpoint."""
    hours: Positive
    """Hours of training; drawing, writing captions and measuring come on top."""

    def lines(self) -> list[str]:
        """As a dry run prints it."""
        return [
            f"memory: {size_text(self.memory)} for what is drawn, read and learned; activations on top",
            f"largest checkpoint: {size_text(self.checkpoint)}",
            f"training: {self.hours:.2f} hours; drawing, captions and reports on top",
        ]


#: Parameters of the UNet, the VAE and both text encoders with their reader (`tests/recipes` counts them).
UNET, VAE, TEXT = 6_238_724, 416_199, 1_889_458
#: Bytes of one scene's latents, coverage and sizes; of one caption's states and token ids; of one picture.
SCENE, CAPTION, PICTURE = 4 * 32 * 32 * 2 + 32 * 32 + 6 * 4, 2 * (77 * 224 + 128) + 2 * 77 + 13, 3 * 128 * 128
#: Weights, gradients, momenta and their average, in float32.
LEARNING, KEPT = 4 * 4, 3 * 4


def recipe_cost(sizes: RecipeSizes, minutes: StageMinutes, stages: tuple[Stage, ...]) -> RecipeCost:
    """What a run of these stages takes: the largest stage's memory, the sum of their hours."""
    captions = (sizes.scenes * sizes.copies + sizes.part) * CAPTION
    memory = {
        "captions": sizes.scenes * sizes.copies * (2 * 77 + 13),
        "vae": sizes.vae_pool * PICTURE + VAE * LEARNING,
        "text": captions // CAPTION * (2 * 77 + 13) + sizes.scenes * 64 + TEXT * LEARNING,
        "detector": sizes.critic_pool * PICTURE,
        "critic": sizes.critic_pool * PICTURE,
        "base": sizes.scenes * SCENE + captions + UNET * LEARNING,
        "finish": sizes.scenes * SCENE + captions + UNET * (LEARNING + 4),
    }
    checkpoint = {"vae": VAE * KEPT, "text": TEXT * KEPT, "base": UNET * KEPT, "finish": UNET * KEPT}
    hours = sum(getattr(minutes, f"{stage}_minutes") for stage in stages if stage != "captions") / 60
    return RecipeCost(
        max(memory[stage] for stage in stages),
        max(checkpoint.get(stage, 4_000_000) for stage in stages),
        max(hours, 1e-3),
    )
