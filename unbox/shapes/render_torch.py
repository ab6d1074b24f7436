"""Scenes drawn many at once, at any size and crop, on any device: `render`'s formulas on tensors."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unbox.shapes.factors import FACTORS
from unbox.shapes.render import BACKGROUNDS, CENTRES, COLOURS, RADIUS, SIDE, UNITS
from unbox.shapes.scene_table import SceneTable


@dataclass(frozen=True)
class Drawn:
    """Pictures (B, 3, side, side) in 0..1; coverage (B, 2, side, side): each pixel's share per slot."""

    pictures: Tensor
    coverage: Tensor


def draw(
    table: SceneTable, side: int = SIDE, corner: Tensor | None = None, device: torch.device | str = "cpu"
) -> Drawn:
    """Draw scenes at `side` pixels. `corner` (B, 2): top and left of a window of the scene's own size, in
    `render`'s 64 units, so that what lies above and left of it is cut off."""
    objects = torch.from_numpy(table.objects).to(device)
    jitter = torch.from_numpy(table.jitter).to(device)
    count = len(table)
    corner = torch.zeros(count, 2, device=device) if corner is None else corner.to(device)
    axis = (torch.arange(side, device=device) + 0.5) * (UNITS / side)
    y = axis.view(1, -1, 1) + corner[:, 0].view(-1, 1, 1)
    x = axis.view(1, 1, -1) + corner[:, 1].view(-1, 1, 1)
    image = (
        _shade(y)[:, None]
        * _rows(BACKGROUNDS, "background", device)[_codes(table.background, device)][:, :, None, None]
    )
    image = image.expand(-1, -1, -1, side)
    present = (_codes(table.relation, device) > 0).view(-1, 1, 1)
    coverage = []
    for slot in (0, 1):
        shape, colour, size, texture, place = objects[:, slot].unbind(-1)
        covered = _covered(x, y, shape, size, place, jitter[:, slot], side / UNITS)
        covered = covered if slot == 0 else covered * present
        paint = (
            _rows(COLOURS, "colour", device)[colour][:, :, None, None]
            * _texture(x, y, texture, side / UNITS)[:, None]
        )
        image = image + covered[:, None] * (paint - image)
        coverage.append(covered)
    image = image * _light(x, y, _codes(table.light, device))[:, None]
    return Drawn(image.clamp(0, 1), torch.stack(coverage, 1))


def _codes(codes: "object", device: torch.device | str) -> Tensor:
    return torch.as_tensor(codes, device=device)


def _rows(table: dict[str, tuple[float, float, float]], factor: str, device: torch.device | str) -> Tensor:
    return torch.tensor([table[value] for value in FACTORS[factor]], device=device)


def _shade(y: Tensor) -> Tensor:
    return 1.15 - 0.35 * y / UNITS


def _covered(
    x: Tensor, y: Tensor, shape: Tensor, size: Tensor, place: Tensor, jitter: Tensor, scale: float
) -> Tensor:
    device = x.device
    dx, dy, growth, turn = (j.view(-1, 1, 1) for j in jitter.unbind(-1))
    radius = torch.tensor([RADIUS[v] for v in FACTORS["size"]], device=device)[size].view(-1, 1, 1) * growth
    centre = torch.tensor([CENTRES[v] for v in FACTORS["position"]], device=device)[place]
    u = (x - centre[:, 0].view(-1, 1, 1) - dx) / radius
    v = (y - centre[:, 1].view(-1, 1, 1) - dy) / radius
    c, s = turn.cos(), turn.sin()
    u, v = c * u + s * v, c * v - s * u
    distances = torch.stack([_DISTANCE[name](u, v) for name in FACTORS["shape"]])
    chosen = distances.gather(0, shape.view(1, -1, 1, 1).expand(1, -1, *u.shape[1:]))[0]
    return (0.5 - radius * scale * chosen).clamp(0, 1)


def _polygon(u: Tensor, v: Tensor, normals: list[float], offset: float) -> Tensor:
    return torch.stack([u * math.cos(a) + v * math.sin(a) for a in normals]).amax(0) - offset


def _star(u: Tensor, v: Tensor) -> Tensor:
    outer, inner, sector = 1.12, 0.52, math.pi / 5
    angle = (torch.remainder(torch.atan2(u, -v) + sector, 2 * sector) - sector).abs()
    radius = torch.hypot(u, v)
    x, y = radius * angle.cos(), radius * angle.sin()
    ex, ey = inner * math.cos(sector) - outer, inner * math.sin(sector)
    return ((x - outer) * ey - y * ex) / math.hypot(ex, ey)


def _heart(u: Tensor, v: Tensor) -> Tensor:
    x, y = 1.25 * u, 0.12 - 1.25 * v
    q = x * x + y * y - 1
    f = q**3 - x * x * y**3
    fx, fy = 6 * x * q * q - 2 * x * y**3, 6 * y * q * q - 3 * x * x * y * y
    return f / (1.25 * torch.hypot(fx, fy) + 1e-3)


def _cross(u: Tensor, v: Tensor) -> Tensor:
    u, v = u.abs(), v.abs()
    return torch.minimum(torch.maximum(u - 0.98, v - 0.33), torch.maximum(v - 0.98, u - 0.33))


_DISTANCE = {
    "circle": lambda u, v: torch.hypot(u, v) - 0.88,
    "square": lambda u, v: _polygon(u, v, [0, math.pi / 2, math.pi, -math.pi / 2], 0.78),
    "triangle": lambda u, v: _polygon(u, v - 0.12, [math.pi / 2, -math.pi / 6, math.pi + math.pi / 6], 0.56),
    "star": _star,
    "heart": _heart,
    "cross": _cross,
}


def _texture(x: Tensor, y: Tensor, texture: Tensor, scale: float) -> Tensor:
    """Share of the full colour at each pixel; the pattern is fixed to the scene."""
    one = torch.ones_like(x + y)
    rows, columns = torch.remainder(y, 8) < 4, torch.remainder(x, 8) < 4
    spot = torch.hypot(torch.remainder(x, 8) - 4, torch.remainder(y, 8) - 4)
    patterns = {
        "solid": one,
        "striped": torch.where(rows, 1.0, 0.35) * one,
        "checkered": torch.where(columns == rows, 1.0, 0.35),
        "dotted": 1 - 0.65 * ((2.6 - spot) * scale + 0.5).clamp(0, 1),
    }
    stack = torch.stack([patterns[name] for name in FACTORS["texture"]])
    return stack.gather(0, texture.view(1, -1, 1, 1).expand(1, -1, *one.shape[1:]))[0]


def _light(x: Tensor, y: Tensor, light: Tensor) -> Tensor:
    one = torch.ones_like(x + y)
    lights = {
        "bright": one,
        "dim": 0.55 * one,
        "from the left": (1.05 - 0.65 * x / UNITS) * one,
        "from the right": (0.40 + 0.65 * x / UNITS) * one,
    }
    stack = torch.stack([lights[name] for name in FACTORS["light"]])
    return stack.gather(0, light.view(1, -1, 1, 1).expand(1, -1, *one.shape[1:]))[0].clamp(0.25, 1.15)
