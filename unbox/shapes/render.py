"""Drawing scenes: signed distances in pixels, so that edges are antialiased without supersampling."""

from collections.abc import Callable

import numpy as np

from unbox.shapes.factors import FACTORS
from unbox.shapes.scene import Object, Scene

#: Pixels of a picture's side, and units of a scene's: places, radii and patterns are in units.
SIDE, UNITS = 128, 64
SCALE = SIDE / UNITS
Field = np.ndarray  # (SIDE, SIDE) float32

_Y, _X = (np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + 0.5) / SCALE

#: Object colours and background colours, RGB in 0..1.
COLOURS = {
    "red": (0.92, 0.12, 0.12),
    "orange": (1.00, 0.55, 0.05),
    "yellow": (0.98, 0.93, 0.20),
    "green": (0.15, 0.80, 0.20),
    "cyan": (0.25, 0.92, 0.95),
    "blue": (0.15, 0.30, 1.00),
    "purple": (0.72, 0.25, 0.95),
    "white": (0.98, 0.98, 0.98),
}
BACKGROUNDS = {
    "gray": (0.42, 0.42, 0.44),
    "navy": (0.10, 0.14, 0.40),
    "brown": (0.42, 0.26, 0.14),
    "olive": (0.33, 0.36, 0.12),
    "teal": (0.08, 0.38, 0.38),
    "plum": (0.38, 0.14, 0.34),
}
RADIUS = {"small": 10.0, "large": 14.0}
CENTRES = {name: (16.0 + 16 * (i % 3), 16.0 + 16 * (i // 3)) for i, name in enumerate(FACTORS["position"])}


def _polygon(normals: list[float], offset: float) -> Callable[[Field, Field], Field]:
    """Distance to a regular polygon whose sides face the given angles at `offset` from the centre."""
    sides = [(np.cos(a), np.sin(a)) for a in normals]
    return lambda u, v: np.max([u * c + v * s for c, s in sides], axis=0) - offset


def _star(u: Field, v: Field) -> Field:
    # Fold the plane into one tenth of the star, then take the distance to the single edge left there.
    outer, inner, sector = 1.12, 0.52, np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + sector) % (2 * sector) - sector)
    radius = np.hypot(u, v)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    ex, ey = inner * np.cos(sector) - outer, inner * np.sin(sector)
    return ((x - outer) * ey - y * ex) / np.hypot(ex, ey)


def _heart(u: Field, v: Field) -> Field:
    # The sextic (x²+y²-1)³ = x²y³, scaled; over its gradient it is a distance near the edge.
    x, y = 1.25 * u, 0.12 - 1.25 * v
    q = x * x + y * y - 1
    f = q**3 - x * x * y**3
    fx = 6 * x * q * q - 2 * x * y**3
    fy = 6 * y * q * q - 3 * x * x * y * y
    return f / (1.25 * np.hypot(fx, fy) + 1e-3)


def _cross(u: Field, v: Field) -> Field:
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(u - 0.98, v - 0.33), np.maximum(v - 0.98, u - 0.33))


#: Signed distance to each shape's outline in units of the object's radius; (u, v) points right and down.
SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "circle": lambda u, v: np.hypot(u, v) - 0.88,
    "square": _polygon([0, np.pi / 2, np.pi, -np.pi / 2], 0.78),
    "triangle": lambda u, v: _polygon([np.pi / 2, -np.pi / 6, np.pi + np.pi / 6], 0.56)(u, v - 0.12),
    "star": _star,
    "heart": _heart,
    "cross": _cross,
}


def _dots(u: Field, v: Field) -> Field:
    dots: Field = 1 - 0.65 * np.clip(0.5 + SCALE * (2.6 - np.hypot(u, v)), 0, 1)
    return dots.astype(np.float32)


#: Share of the full colour at each pixel. The pattern is fixed to the picture, not to the object:
#: moving an object moves its outline over the pattern.
TEXTURES: dict[str, Field] = {
    "solid": np.ones((SIDE, SIDE), np.float32),
    "striped": np.where(_Y % 8 < 4, 1.0, 0.35).astype(np.float32),
    "checkered": np.where((_X % 8 < 4) == (_Y % 8 < 4), 1.0, 0.35).astype(np.float32),
    "dotted": _dots(_X % 8 - 4, _Y % 8 - 4),
}

#: Brightness at each pixel.
LIGHTS: dict[str, Field] = {
    "bright": np.ones((SIDE, SIDE), np.float32),
    "dim": np.full((SIDE, SIDE), 0.55, np.float32),
    "from the left": (1.05 - 0.65 * _X / UNITS).astype(np.float32),
    "from the right": (0.40 + 0.65 * _X / UNITS).astype(np.float32),
}

_SHADE = (1.15 - 0.35 * _Y / UNITS).astype(np.float32)  # backgrounds darken downwards


def coverage(thing: Object) -> Field:
    """Share of each pixel that the object covers, (SIDE, SIDE) in 0..1."""
    radius = RADIUS[thing.size] * thing.growth
    x, y = CENTRES[thing.position]
    u, v = (_X - x - thing.dx) / radius, (_Y - y - thing.dy) / radius
    c, s = np.float32(np.cos(thing.turn)), np.float32(np.sin(thing.turn))
    return np.clip(0.5 - SCALE * radius * SHAPES[thing.shape](c * u + s * v, c * v - s * u), 0, 1)


def masks(scene: Scene) -> np.ndarray:
    """Which pixels each object covers by more than half: bool (objects, SIDE, SIDE), in slot order."""
    return np.stack([coverage(thing) > 0.5 for thing in scene.objects])


def render(scene: Scene) -> np.ndarray:
    """The picture of a scene, uint8 (SIDE, SIDE, 3)."""
    image = _SHADE[..., None] * np.asarray(BACKGROUNDS[scene.background], np.float32)
    for thing in scene.objects:
        paint = TEXTURES[thing.texture][..., None] * np.asarray(COLOURS[thing.colour], np.float32)
        image = image + coverage(thing)[..., None] * (paint - image)
    image = image * LIGHTS[scene.light][..., None]
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
