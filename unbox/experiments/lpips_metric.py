"""LPIPS (Zhang et al. 2018, version 0.1) with AlexNet, on any device and in batches.

    d(x, y) = sum over 5 layers of mean over positions of sum_c w_c (f_c(x) - f_c(y))^2

with f the layer's activations at unit length over channels, of images in -1..1 shifted and scaled as
published. The `lpips` package computes the same; it moves no data to a device, and fetches AlexNet without
asking. Nothing is fetched here: where weights are missing, the error names the files and where they go.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unbox.errors import UnboxError
from unbox.experiments.critics import Figures, ImagePair
from unbox.experiments.picture_tensors import by_size, signed

#: AlexNet's convolutions by their number in torchvision's `features`: (in, out, kernel, stride, padding).
LAYERS = {
    0: (3, 64, 11, 4, 2),
    3: (64, 192, 5, 1, 2),
    6: (192, 384, 3, 1, 1),
    8: (384, 256, 3, 1, 1),
    10: (256, 256, 3, 1, 1),
}
#: Layers that a maximum over 3 x 3 places, every second one, comes before.
POOLED = (3, 6)
#: What images in -1..1 are shifted and scaled by.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

ALEXNET = "alexnet-owt-7be5be79.pth"
ALEXNET_URL = f"https://download.pytorch.org/models/{ALEXNET}"

#: Pairs compared at once.
BATCH = 16


class Lpips(nn.Module):
    """The network. Weights are random until they are loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(*size) for size in LAYERS.values())
        self.heads = nn.ParameterList([nn.Parameter(torch.rand(o), False) for _, o, *_ in LAYERS.values()])

    def activations(self, images: Tensor) -> Iterator[Tensor]:
        """Each layer's activations (n, c, y, x) of images (n, 3, height, width) in -1..1."""
        shift, scale = (images.new_tensor(each).view(1, 3, 1, 1) for each in (SHIFT, SCALE))
        x = (images - shift) / scale
        for number, convolution in zip(LAYERS, self.convolutions, strict=True):
            x = F.max_pool2d(x, 3, 2) if number in POOLED else x
            x = F.relu(convolution(x))
            yield x

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(n,) distances of two batches of images."""
        total = first.new_zeros(len(first))
        for f, s, head in zip(self.activations(first), self.activations(second), self.heads, strict=True):
            difference = (_unit(f) - _unit(s)).square()
            total = total + torch.einsum("ncyx,c->nyx", difference, head).mean((1, 2))
        return total


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


@torch.no_grad()
def lpips(pairs: Sequence[ImagePair], network: Lpips) -> list[Figures]:
    """`lpips`: the distance of each pair, on the network's device, `BATCH` pairs of one size at a time."""
    device, found = network.heads[0].device, [0.0] * len(pairs)
    for places in by_size([pair.before for pair in pairs], BATCH):
        first, second = (
            signed([getattr(pairs[i], side) for i in places], device) for side in ("before", "after")
        )
        for i, value in zip(places, network(first, second).tolist(), strict=True):
            found[i] = value
    return [{"lpips": value} for value in found]


@cache
def load_lpips(device: str = "cpu") -> Lpips:
    """The network with the published weights: AlexNet's in torch's folder, the heads in the `lpips` package.

    Raises UnboxError, naming the files, where one is not there.
    """
    alexnet, heads = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET, heads_file()
    missing = [f"{alexnet} (from {ALEXNET_URL})"] * (not alexnet.is_file())
    if heads is None or not heads.is_file():
        missing.append("the package `lpips` (pip install 'unbox[metrics]')")
    if heads is None or missing:
        raise UnboxError(
            f"LPIPS cannot run here: it lacks {' and '.join(missing)}; "
            "'structure' (multi-scale DSSIM) needs no weights"
        )
    backbone, linear = (torch.load(path, "cpu", weights_only=True) for path in (alexnet, heads))
    network = Lpips()
    try:
        with torch.no_grad():
            for number, convolution in zip(LAYERS, network.convolutions, strict=True):
                for name, parameter in convolution.named_parameters():
                    parameter.copy_(backbone[f"features.{number}.{name}"])
            for place, head in enumerate(network.heads):
                head.copy_(linear[f"lin{place}.model.1.weight"].flatten())
    except (KeyError, RuntimeError) as error:
        raise UnboxError(f"LPIPS' weights are of another network: {' '.join(str(error).split())}") from error
    return network.eval().requires_grad_(False).to(device)


def heads_file() -> Path | None:
    """The file of AlexNet's heads in the `lpips` package, without importing it; None where it is not
    there."""
    package = find_spec("lpips")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0]) / "weights" / "v0.1" / "alex.pth"
