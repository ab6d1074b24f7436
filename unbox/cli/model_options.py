"""Options of every command that loads a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from unbox.models import Model

#: An option of every command that computes, with a model or without.
Device = Annotated[
    str | None,
    tyro.conf.arg(help="Where to compute, like cuda or cpu; None: the accelerator if there is one."),
]


@dataclass(frozen=True)
class ModelOptions:
    """Which model, where and in which type."""

    model: str = "shapes-turbo"
    """System's name (`unbox models`), Hub id, diffusers folder or single checkpoint file."""
    system: str | None = None
    """Sample the weights by this system's settings instead of their own."""
    unet: Path | None = None
    """UNet file or folder put in the place of the model's UNet."""
    lora: Path | None = None
    """LoRA file or folder put over the model as an adapter."""
    config: Path | None = None
    """Diffusers folder with the configuration and tokenizers of a single-file checkpoint."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type to compute in; None: as stored, but never float16 on a CPU."""
    device: Device = None
    offload: Literal["model", "sequential"] | None = None
    """Keep parts on the CPU until they are needed: slower, less accelerator memory."""
    compile: bool = False
    """Compile the repeated blocks: slow first image, faster ones after."""
    offline: bool = False
    """Never touch the network."""

    def load(self) -> "Model":
        """The model, ready to run."""
        from unbox.models import load

        return load(
            self.model,
            self.dtype,
            self.device,
            system=self.system,
            unet=self.unet,
            lora=self.lora,
            config=self.config,
            offload=self.offload,
            compile=self.compile,
            download=not self.offline,
        )

    def line(self) -> str:
        """The options as typed: what a command suggested to the user repeats."""
        import shlex

        usual, words = vars(ModelOptions()), ["--model", self.model]
        for name, value in vars(self).items():
            if name != "model" and value != usual[name]:
                words += [f"--{name}"] + ([] if value is True else [str(value)])
        return shlex.join(words)


#: The options as a group of a command's own: their names stand without the group's.
Flat = Annotated[ModelOptions, tyro.conf.arg(name="")]
