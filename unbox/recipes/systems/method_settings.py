"""What each method is told; defaults are its paper's. Values only, no torch."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from annotated_types import Ge, Gt, Lt, MinLen

from unbox.errors import FieldError, UnboxError
from unbox.recipes.sdxl.sdxl_settings import TABLE, Rate, TrainingImages, TrainingSettings
from unbox.text_files import read_toml_file
from unbox.validation import (
    Amount,
    Count,
    Guidance,
    NotNegative,
    Positive,
    Several,
    Share,
    StepIndex,
    Steps,
    Text,
    Whole,
    parsed,
    validated,
)

Settings = TypeVar("Settings", bound=TrainingSettings)


@validated(kw_only=True)
class TurboSettings(TrainingSettings):
    """ADD (2311.17042): a student against a critic on pixels, and its teacher."""

    steps: Annotated[Steps, Lt(101)] = 4
    """Steps of the student."""
    learning_rate: Rate = 1e-5
    critic_rate: Rate = 1e-4
    """Learning rate of the critic's heads."""
    distillation: NotNegative = 2.5
    """Weight of the distillation loss; the paper's lambda."""
    r1: NotNegative = 1e-5
    """Weight of the critic's gradient penalty at real features."""
    projector: Text = "detector"
    """Whose features the critic judges: detector, of Shapes, or a folder or Hub id of DINOv2, the paper's."""


@validated(kw_only=True)
class LightningSettings(TrainingSettings):
    """SDXL-Lightning (2402.13929): fewer steps in stages, by squared error, then adversarially."""

    teacher_steps: Steps = 128
    """Steps of the first teacher."""
    student_steps: Annotated[Several[Steps], MinLen(1)] = (32, 8, 4)
    """Steps of each stage's student: each learns from the one before it and divides its number."""
    arm: Literal["lightning", "mse", "ladd", "dmd2"] = "lightning"
    """The paper's stages; squared error throughout; or a control of one stage: LADD, DMD2."""
    guidance: Guidance = 6.0
    """Guidance of the first teacher (of every teacher in the controls)."""
    predict_x0: bool = False
    """Let the one-step student of the last stage predict x0; for --full."""
    learning_rate: Rate = 1e-5
    critic_rate: Rate = 1e-5
    """Learning rate of the critic, and of DMD2's score."""
    score_turns: Annotated[Whole, Gt(0), Lt(101)] = 5
    """DMD2: turns of its score for one of the student."""

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        before = self.teacher_steps
        for steps in self.student_steps:
            if before % steps or before == steps:
                rule = f"should fall, each a divisor of the one before it: {steps} after {before}"
                raise FieldError("", "student_steps", self.student_steps, rule)
            before = steps
        if self.predict_x0 and (not self.full or self.student_steps[-1] != 1 or self.arm in ("ladd", "dmd2")):
            raise FieldError(
                "", "predict_x0", True, "is for full, the last of student_steps 1, and no control"
            )
        if self.arm in ("ladd", "dmd2") and len(self.student_steps) > 1:
            rule = f"should be one number for {self.arm}, which has one stage"
            raise FieldError("", "student_steps", self.student_steps, rule)
        if self.score_turns != 5 and self.arm != "dmd2":
            raise FieldError("", "score_turns", self.score_turns, "is for arm dmd2")


@validated(kw_only=True)
class NovelaiSettings(TrainingSettings):
    """NovelAI V3 (2409.15997): v-prediction under zero terminal SNR, Min-SNR weights."""

    full: bool = True
    """Train every weight of the UNet instead of a LoRA, which a UNet that predicts eps needs."""
    snr_gamma: Positive = 5.0
    """Gamma of Min-SNR."""
    snr_floor: NotNegative = 0.0
    """Least weight of a timestep; 0, the paper's, leaves pure noise none. 1 is a variant of ours."""
    noise_offset: NotNegative = 0.0
    """Deviation of what is added to each channel of the noise as a whole."""
    caption_dropout: Share = 0.1
    """Share of examples that are learned without their caption."""
    from_nothing: bool = False
    """Begin with random weights of the model's architecture instead of its weights."""
    conversion_steps: Amount = 0
    """Steps at the beginning in which the UNet learns what v stands for its own former output; 0, the
    paper's: it learns from images alone."""

    @property
    def prediction(self) -> Literal["epsilon", "v_prediction"]:
        """What is learned."""
        return "v_prediction"

    @property
    def zero_terminal_snr(self) -> bool:
        """Always."""
        return True

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        if self.from_nothing and not self.full:
            raise FieldError("", "from_nothing", True, "is for full: a LoRA needs weights under it")
        if self.conversion_steps and (self.from_nothing or not self.full):
            rule = "is for full, and weights to begin with"
            raise FieldError("", "conversion_steps", self.conversion_steps, rule)


@validated(kw_only=True)
class NcpSettings(TrainingSettings):
    """Preference, in the space of a UNet's encoder (NCP, 2406.17636) or of its output."""

    objective: Literal["dpo", "cpo", "sft"] = "dpo"
    """DPO against the model as it was, CPO without a reference, or squared error on the preferred alone."""
    space: Literal["perception", "output"] = "perception"
    """Where errors are measured: features of the frozen encoder, or the UNet's output (plain
    Diffusion-DPO)."""
    losers: Text | None = None
    """Images that are not preferred, under the same names and captions as those of --data; shapes: each
    scene with one factor changed."""
    beta: Positive = 2500.0
    """Sharpness of the preference (Diffusion-DPO's 5000 halved)."""
    sft: NotNegative = 0.0
    """CPO: weight of the preferred image's error; the paper has it, its code not."""
    lora_rank: Count = 64
    max_train_steps: Count = 2000
    lr_warmup_steps: Count = 500
    learning_rate: Rate = 2e-5
    batch_size: Annotated[Whole, Gt(0), Lt(65536)] = 1
    """Pairs of a batch in each process."""
    gradient_accumulation_steps: Annotated[Whole, Gt(0), Lt(65536)] = 512
    """Batches whose gradients make one step (the paper: 512 to 2,048 pairs a step)."""

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        if self.sft and self.objective != "cpo":
            raise FieldError("", "sft", self.sft, "is for objective cpo")


@validated(kw_only=True)
class DistarSettings(TrainingSettings):
    """Diff-Instruct* (2410.20898): one step, near the teacher's scores, towards a reward."""

    timestep: Annotated[StepIndex, Gt(0), Lt(1000)] = 399
    """The label that the generator is asked with."""
    regression_steps: Amount = 0
    """Steps at the beginning that regress the teacher's own samples from the same noise."""
    teacher_steps: Annotated[Steps, Ge(1)] = 20
    """Steps of those samples."""
    distance: Literal["huber", "sid", "kl"] = "huber"
    """Pseudo-Huber distance of scores, the paper's; SiD's loss; or KL, the control (DMD's gradient)."""
    huber_c: NotNegative = 1e-3
    """The pseudo-Huber constant, in x0's units. It is not published: this is ours."""
    guidance: Guidance = 7.5
    """Guidance of the teacher."""
    guidance_place: Literal["in", "out"] = "in"
    """Guidance inside the distance, or outside it as a reward of its own."""
    reward: Text | None = None
    """detector, of Shapes, or a folder or Hub id of a CLIP (PickScore is one); None: no reward."""
    reward_weight: NotNegative = 100.0
    """Weight of the reward."""
    learning_rate: Rate = 5e-6
    score_rate: Rate = 5e-6
    """Learning rate of the score of generated images."""
    score_turns: Annotated[Whole, Gt(0), Lt(101)] = 1
    """Turns of that score for one of the generator."""

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        if self.huber_c != 1e-3 and self.distance != "huber":
            raise FieldError("", "huber_c", self.huber_c, "is for distance huber")
        if self.reward_weight != 100 and self.reward is None:
            raise FieldError("", "reward_weight", self.reward_weight, "is for a reward: give reward too")


def read_method(path: Path, kind: type[Settings]) -> tuple[Settings, TrainingImages]:
    """A method's settings, and the images of the table [images], from a TOML file. Raises UnboxError, naming
    file and key, for what is none."""
    content = read_toml_file(path)
    images = parsed(TrainingImages, content.pop(TABLE, {}), f"{path}: [{TABLE}]")
    if images.data is None:
        raise UnboxError(f"{path}: [{TABLE}] says no data to learn from")
    return parsed(kind, content, str(path)), images
