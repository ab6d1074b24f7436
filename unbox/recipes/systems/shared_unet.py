"""The networks of a method, from one UNet: LoRAs over one frozen base, or copies of it.

With LoRAs there is one base in half precision, and what learns (student, score, critic) is an adapter each;
the teacher is the base without any. With `full` each is a copy.
"""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unbox.recipes.sdxl.sdxl_network import ADAPTER, TARGETS, alpha_of
from unbox.recipes.sdxl.sdxl_settings import TrainingSettings
from unbox.training.objectives.diffusion import Predict


@dataclass(frozen=True)
class TextCondition:
    """What a UNet is told of a batch: context (B, tokens, width), pooled (B, width), sizes (B, 6)."""

    context: Tensor
    pooled: Tensor
    sizes: Tensor

    def together(self, other: "TextCondition") -> "TextCondition":
        """Both batches as one."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return TextCondition(*(torch.cat(pair) for pair in pairs))

    def misaligned(self) -> "TextCondition":
        """Each example under the caption of the one before it."""
        return TextCondition(self.context.roll(1, 0), self.pooled.roll(1, 0), self.sizes)


@dataclass
class SharedUNet:
    """A UNet and the adapter that acts in it now; None: none."""

    unet: UNet2DConditionModel
    half: bool
    """Compute in bfloat16."""
    active: str | None = None
    layers: list[BaseTunerLayer] = field(default_factory=list)

    def use(self, name: str | None) -> None:
        """Let an adapter act, and no other. All adapters go on asking for gradients: which of them learn is
        the business of their optimizers, and a backward pass may come after another adapter's forward."""
        if name == self.active or not self.layers:
            return
        for layer in self.layers:
            layer.enable_adapters(name is not None)
            if name is not None:
                layer.set_adapter([name])
        for p in self.adapters():
            p.requires_grad_(True)
        self.active = name

    def adapters(self) -> Iterator[nn.Parameter]:
        """The weights of all adapters."""
        return (p for name, p in self.unet.named_parameters() if ".lora_" in name)

    def add(self, name: str, settings: TrainingSettings, encoder: bool, seed: int) -> None:
        """A further adapter; `encoder`: of the down and mid blocks alone."""
        ends = "|".join(target.replace(".", r"\.") for target in TARGETS[settings.lora_targets])
        config = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=alpha_of(settings),
            init_lora_weights="gaussian",
            target_modules=rf"(down_blocks|mid_block)\..*({ends})"
            if encoder
            else TARGETS[settings.lora_targets],
        )
        with torch.random.fork_rng([]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are what is wanted
            torch.manual_seed(seed)
            self.unet.add_adapter(config, name)
        for p in self.adapters():
            p.data = p.data.float()
        self.layers = [layer for layer in self.unet.modules() if isinstance(layer, BaseTunerLayer)]
        self.active = "?"
        self.use(name)

    def checkpointed(self, module: nn.Module, *args: Tensor) -> Tensor:
        """A block whose activations are computed again in the backward pass, by the adapter of now."""
        active = self.active

        def again(*given: Tensor) -> Tensor:
            self.use(active)
            result: Tensor = module(*given)
            return result

        result: Tensor = checkpoint(again, *args, use_reentrant=False)
        return result

    def call(self, name: str | None, x: Tensor, t: Tensor, given: TextCondition) -> Tensor:
        """The output (B, C, H, W) float32 with an adapter."""
        self.use(name)
        added = {"text_embeds": given.pooled, "time_ids": given.sizes}
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            output: Tensor = self.unet(x, t, given.context, added_cond_kwargs=added, return_dict=False)[0]
        return output.float()

    def encode(
        self, name: str | None, x: Tensor, t: Tensor, given: TextCondition, mid: bool = True
    ) -> Tensor:
        """The features (B, channels, h, w) float32 after the down blocks, or after the mid block."""
        self.use(name)
        unet, context = self.unet, given.context
        added = {"text_embeds": given.pooled, "time_ids": given.sizes}
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            time = unet.time_embedding(unet.get_time_embed(x, t))
            time = time + unet.get_aug_embed(time, context, added)
            hidden = unet.conv_in(x)
            for block in unet.down_blocks:
                text = {"encoder_hidden_states": context} if hasattr(block, "attentions") else {}
                hidden, _ = block(hidden, temb=time, **text)
            if mid:
                hidden = unet.mid_block(hidden, time, encoder_hidden_states=context)
        return hidden.float()


class RoleNetwork(nn.Module):
    """One network of a method as a module of its own: its parameters are an adapter's, or a whole UNet's."""

    def __init__(self, shared: SharedUNet, adapter: str | None, learns: bool) -> None:
        super().__init__()
        self._shared, self._adapter = (shared,), adapter  # in a tuple: the base is no part of the role
        if learns:
            for name, p in shared.unet.named_parameters():
                if adapter is None or f".{adapter}." in name:
                    self.register_parameter(name.replace(".", "/"), p)

    @property
    def shared(self) -> SharedUNet:
        """The UNet that it is in."""
        return self._shared[0]

    def forward(self, x: Tensor, t: Tensor, given: TextCondition) -> Tensor:
        """The output (B, C, H, W), float32."""
        return self.shared.call(self._adapter, x, t, given)

    def encode(self, x: Tensor, t: Tensor, given: TextCondition, mid: bool = True) -> Tensor:
        """The features after the down blocks, or after the mid block."""
        return self.shared.encode(self._adapter, x, t, given, mid)

    @torch.no_grad()
    def copy_from(self, other: "RoleNetwork") -> None:
        """Take over another's weights."""
        for p, value in zip(self.parameters(), other.parameters(), strict=True):
            if not (p.is_meta or value.is_meta):  # where memory is counted there are no numbers to copy
                p.copy_(value)


class RoleNetworks:
    """The networks of one method, made of a model's UNet."""

    def __init__(self, unet: UNet2DConditionModel, settings: TrainingSettings) -> None:
        """With LoRAs `unet` itself is the base; with `full` it is what the student becomes."""
        self.settings, self.half = settings, settings.mixed_precision == "bf16"
        self.unets: list[UNet2DConditionModel] = []
        """The base and its copies."""
        self.base = self._prepared(unet, frozen=not settings.full)
        self.made = 0

    def student(self) -> RoleNetwork:
        """What is written in the end."""
        return self.learner(ADAPTER, self.base)

    def learner(self, name: str, shared: SharedUNet | None = None, encoder: bool = False) -> RoleNetwork:
        """A network that learns, as the base is at first; `encoder`: its down and mid blocks alone, for
        `encode`."""
        self.made += 1
        if not self.settings.full:
            self.base.add(name, self.settings, encoder, self.settings.seed % 2**31 + self.made)
            return RoleNetwork(self.base, name, True)
        if shared is None:
            made = copy.deepcopy(self.base.unet)
            if encoder:
                made.up_blocks = nn.ModuleList()
                made.conv_norm_out = made.conv_out = nn.Identity()
            shared = self._prepared(made, frozen=False)
        return RoleNetwork(shared, None, True)

    def teacher(self) -> RoleNetwork:
        """The network as it was given, frozen. Made before the student learns."""
        if not self.settings.full:
            return RoleNetwork(self.base, None, False)
        return RoleNetwork(self._prepared(copy.deepcopy(self.base.unet), frozen=True), None, False)

    def frozen_copy(self, of: RoleNetwork, name: str) -> RoleNetwork:
        """Another network with the weights that `of` has now, which does not learn."""
        if not self.settings.full:
            made = self.learner(name)
            made.copy_from(of)
            return made
        return RoleNetwork(self._prepared(copy.deepcopy(of.shared.unet), frozen=True), None, False)

    def _prepared(self, unet: UNet2DConditionModel, frozen: bool) -> SharedUNet:
        unet.requires_grad_(not frozen).train()
        dtype = torch.bfloat16 if self.half and frozen else torch.float32
        for p in unet.parameters():
            p.data = p.data.to(dtype)
        shared = SharedUNet(unet, self.half)
        self.unets.append(unet)
        if self.settings.gradient_checkpointing:
            unet.enable_gradient_checkpointing(shared.checkpointed)
        return shared


def bound(network: nn.Module, given: TextCondition) -> Predict:
    """A network with its condition bound to it."""
    return lambda x, t: network(x, t, given)


def guided(network: nn.Module, given: TextCondition, nothing: TextCondition, scale: float) -> Predict:
    """The same with classifier-free guidance, both halves in one batch; at scale 1 the caption alone."""
    if scale == 1:
        return bound(network, given)
    both = given.together(nothing)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = network(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return predict
