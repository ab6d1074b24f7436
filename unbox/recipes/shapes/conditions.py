"""What the UNet is told: caption states, the pooled vector, sizes; all on the device."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unbox.models.bf16_support import bf16_products, multiplies_bf16
from unbox.recipes.shapes.networks import CONTEXT, LENGTH, SIDE, WIDTHS, TextEncoders
from unbox.recipes.shapes.text_stage import POOLED_NOISE
from unbox.training.objectives.diffusion import Predict

#: Share of training captions replaced by nothing at all (zeros, as SDXL's pipeline has it).
UNCONDITIONAL = 0.08
PLAIN_SIZES = (SIDE, SIDE, 0, 0, SIDE, SIDE)


def halved(network: nn.Module) -> Callable[..., tuple[Tensor, ...]]:
    """A network computed in bfloat16 throughout, its own weights (and their gradients) in float32, on
    devices that multiply bfloat16; elsewhere in float32. Autocast would take every normalisation to float32
    and back, which is what such a small UNet spends its time on."""

    def call(*tensors: Tensor, added_cond_kwargs: dict[str, Tensor], return_dict: bool) -> tuple[Tensor, ...]:
        if not multiplies_bf16(tensors[0].device):
            told = {"added_cond_kwargs": added_cond_kwargs, "return_dict": return_dict}
            alone: tuple[Tensor, ...] = network(*tensors, **told)
            return alone
        weights = {name: p.to(torch.bfloat16) for name, p in network.named_parameters()}
        x_t, t, context = tensors
        inputs = (x_t.to(torch.bfloat16), t, context.to(torch.bfloat16))
        added = {name: value.to(torch.bfloat16) for name, value in added_cond_kwargs.items()}
        added["time_ids"] = added_cond_kwargs["time_ids"]
        with torch.autocast(x_t.device.type, enabled=False):
            options = {"added_cond_kwargs": added, "return_dict": return_dict}
            found: tuple[Tensor, ...] = functional_call(network, weights, inputs, options)
            return found

    return call


@dataclass(frozen=True)
class Given:
    """Of a batch: context (B, 77, 224), pooled (B, 128), sizes (B, 6)."""

    context: Tensor
    pooled: Tensor
    sizes: Tensor

    def predict(self, unet: Callable[..., tuple[Tensor, ...]]) -> Predict:
        """The UNet with this bound to it, its output in float32."""
        added = {"text_embeds": self.pooled, "time_ids": self.sizes}
        return lambda x_t, t: unet(x_t, t, self.context, added_cond_kwargs=added, return_dict=False)[
            0
        ].float()

    def __getitem__(self, where: slice) -> "Given":
        return Given(self.context[where], self.pooled[where], self.sizes[where])


@dataclass(frozen=True)
class CaptionStates:
    """Captions read by the encoders, once: context (m, 77, 224) and pooled (m, 128), float16."""

    context: Tensor
    pooled: Tensor
    plain_sizes: Tensor
    """(1, 6): a whole picture of the model's own size."""

    def __len__(self) -> int:
        return len(self.context)

    @classmethod
    @torch.no_grad()
    def of(cls, text: TextEncoders, ids: Tensor, chunk: int = 2048) -> "CaptionStates":
        """Of token ids (m, 77) on the device."""
        context = torch.empty(len(ids), LENGTH, CONTEXT, dtype=torch.float16, device=ids.device)
        pooled = torch.empty(len(ids), WIDTHS[1], dtype=torch.float16, device=ids.device)
        for i in range(0, len(ids), chunk):
            with bf16_products(ids.device):
                states = text(ids[i : i + chunk].long())
            context[i : i + chunk], pooled[i : i + chunk] = states[0].half(), states[1].half()
        return cls(context, pooled, torch.tensor([PLAIN_SIZES], dtype=torch.float32, device=ids.device))

    def batch(self, index: Tensor, sizes: Tensor, generator: torch.Generator) -> Given:
        """For training: some captions dropped, the pooled vector under the noise it was made for."""
        keep = (torch.rand(len(index), generator=generator, device=index.device) >= UNCONDITIONAL).float()
        noise = torch.randn(len(index), self.pooled.shape[1], generator=generator, device=index.device)
        pooled = self.pooled[index].float() + POOLED_NOISE * noise
        return Given(self.context[index].float() * keep[:, None, None], pooled * keep[:, None], sizes)

    def plain(self, index: Tensor | slice = slice(None)) -> Given:
        """For sampling: nothing dropped, no noise, the plain size."""
        context, pooled = self.context[index].float(), self.pooled[index].float()
        return Given(context, pooled, self.plain_sizes.expand(len(context), -1))
