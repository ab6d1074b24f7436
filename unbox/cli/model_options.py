"""Options of every command that loads a model."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro

from unbox.model_mismatch import MismatchPolicy
from unbox.models.sampling_options import LoraStrength
from unbox.validation import FilePath, Several, Text, validated

if TYPE_CHECKING:
    from unbox.models import Model

Options = TypeVar("Options")

#: A dataclass of options among a command's own: their names stand without the field's.
Group = Annotated[Options, tyro.conf.arg(name="", help="")]
#: An option of every command that computes, with a model or without.
Device = Annotated[
    Text | None,
    tyro.conf.arg(help="Where to compute: cuda, xpu, mps or cpu; None: the first of them that is here."),
]
#: An option of every command that takes SAEs beside a model or a store.
Mismatch = Annotated[
    MismatchPolicy,
    tyro.conf.arg(help="What to do where model, store and SAEs are not of the same model."),
]


@validated
class ModelOptions:
    """Which model, where and in which type."""

    model: Text = "shapes-turbo"
    """Name of a system (`unbox models` lists them), Hub id, diffusers folder or checkpoint file."""
    system: Text | None = None
    """Sample the weights by this system's settings instead of their own: a name, or the system.json beside a
    LoRA of `unbox recipe`."""
    unet: FilePath | None = None
    """File or folder of a UNet to use in place of the model's."""
    lora: FilePath | None = None
    """File or folder of a LoRA to apply to the model; FILE:0.8 for its strength, and the option again for a
    further one."""
    add_lora: Several[FilePath] = ()
    """LoRAs to apply beside the system's own, or --lora."""
    lora_strength: Several[LoraStrength] = ()
    """What each LoRA is multiplied by, the system's own or --lora first; 1 if none are given."""
    vae: Text | None = None
    """VAE in place of the model's: fp16-fix, taesd (small, for previews), a Hub id, a folder or a file."""
    config: FilePath | None = None
    """Diffusers folder with the configuration and tokenizers for a single-file checkpoint."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the weights in memory; None: as stored, but never float16 on a CPU, nor bfloat16 where the
    device has none."""
    device: Device = None
    offload: Literal["model", "sequential"] | None = None
    """Keep parts on the CPU until they are needed: slower, less accelerator memory."""
    compile: bool = False
    """Compile the repeated blocks: the first image is slow, the next ones are faster."""
    compile_whole: bool = False
    """Compile the whole UNet: edits and recorded updates still work, nothing inside blocks is recorded."""
    offline: bool = False
    """Never touch the network."""
    allow_pickle: bool = False
    """Read a folder's weights from pickles where it has no others; tensors alone are read."""

    def load(self) -> "Model":
        """The model, ready to run."""
        from unbox.models import load

        given = {name: value for name, value in vars(self).items() if name not in ("model", "offline")}
        return load(self.model, **given, download=not self.offline)

    def load_in_process(self, number: int) -> "Model":
        """The model, for one of several processes: where CUDA has several GPUs, on one after the other."""
        import torch

        count = torch.cuda.device_count()
        if count > 1 and self.device in (None, "cuda"):
            return replace(self, device=f"cuda:{number % count}").load()
        return self.load()

    def line(self) -> str:
        """The options as typed: what a command suggested to the user repeats."""
        import shlex

        usual, words = vars(ModelOptions()), ["--model", self.model]
        for name, value in vars(self).items():
            if name != "model" and value != usual[name]:
                given = value if isinstance(value, tuple) else () if value is True else (value,)
                words += [f"--{name.replace('_', '-')}", *map(str, given)]
        return shlex.join(words)

    def python(self) -> str:
        """The same in Python, without where it computes and the network: `unbox.load('sdxl-turbo', ...)`."""
        usual, words = vars(ModelOptions()), [repr(self.model)]
        for name, value in vars(self).items():
            if name not in ("model", "device", "offline") and value != usual[name]:
                plain = [str(each) for each in value] if name == "add_lora" else value
                words.append(f"{name}={str(value)!r}" if isinstance(value, Path) else f"{name}={plain!r}")
        return f"unbox.load({', '.join(words)})"


#: Of a command that needs no model, or finds the model's name elsewhere.
NO_MODEL = ModelOptions("")
