"""LPIPS on random weights of AlexNet's layout, against its formula; weights that are missing are named."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from unbox.errors import UnboxError
from unbox.experiments import lpips_metric
from unbox.experiments.critics import ImagePair
from unbox.experiments.lpips_metric import ALEXNET, ALEXNET_URL, load_lpips, lpips

RNG = np.random.default_rng(0)


def noise(width, height=64):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8))


def features():
    """torchvision's `alexnet().features`."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
    )  # fmt: skip


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Files of random weights where the published ones would be."""
    network = features()
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 192, 384, 256, 256))}
    (tmp_path / "checkpoints").mkdir()
    backbone = {f"features.{name}": value for name, value in network.state_dict().items()}
    torch.save(backbone, tmp_path / "checkpoints" / ALEXNET)
    torch.save(heads, tmp_path / "alex.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(lpips_metric, "heads_file", lambda: tmp_path / "alex.pth")
    load_lpips.cache_clear()
    yield network, [head.flatten().numpy() for head in heads.values()]
    load_lpips.cache_clear()


def distance(network, heads, first, second):
    """The formula: Zhang et al. 2018, version 0.1."""
    layers = []
    for picture in (first, second):
        x = torch.from_numpy(np.asarray(picture, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
        shift, scale = (
            torch.tensor(v)[:, None, None] for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
        )
        x, found = (x - shift) / scale, []
        for number, layer in enumerate(network):
            x = layer(x)
            if number in (1, 4, 7, 9, 11):
                found.append(x[0].detach().numpy())
        layers.append([f / (np.sqrt((f**2).sum(0)) + 1e-10) for f in found])
    pairs = zip(*layers, heads, strict=True)
    return sum(float((((a - b) ** 2) * head[:, None, None]).sum(0).mean()) for a, b, head in pairs)


def test_lpips_is_its_formula_in_batches_of_any_sizes(weights):
    pictures = [noise(64), noise(96), noise(64), noise(64, 80)]
    pairs = [ImagePair(p, noise(*p.size), "x") for p in pictures] + [ImagePair(pictures[0], pictures[0], "x")]
    found = [figures["lpips"] for figures in lpips(pairs, load_lpips())]
    assert found == pytest.approx([distance(*weights, p.before, p.after) for p in pairs], rel=1e-4)
    assert found[-1] == 0


def test_weights_of_another_network_and_missing_ones_are_named(weights, tmp_path, monkeypatch):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "checkpoints" / ALEXNET)
    with pytest.raises(UnboxError, match="LPIPS' weights are of another network"):
        load_lpips()
    (tmp_path / "checkpoints" / ALEXNET).unlink()
    monkeypatch.setattr(lpips_metric, "heads_file", lambda: None)
    with pytest.raises(UnboxError) as caught:
        load_lpips()
    for part in (str(tmp_path / "checkpoints" / ALEXNET), ALEXNET_URL, "unbox[metrics]", "structure"):
        assert part in str(caught.value)
