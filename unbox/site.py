"""Sites: what of a model can be recorded or edited, as rows of data.

A UNet's sites are its transformer blocks, by their short names. Other architectures, text encoders and
attention heads are further rows: another layout, stream or width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from unbox.blocks import block_path

#: Layout -> its axes, as an einops pattern. `maps` are an image's channels; `tokens` a sequence of vectors.
LAYOUTS = {"maps": "rows channels y x", "tokens": "rows (y x) channels"}

#: The order of branches on every branch axis.
BRANCHES = ("cond", "uncond")


@dataclass(frozen=True)
class Site:
    """One place whose input and output can be read, and whose output can be changed."""

    name: str
    """Short name, `up.0.1`."""
    path: str
    """Path of the module inside the UNet (or other network)."""
    halvings: int = 0
    """How often the latent's sides are halved before it, rounding up."""
    layout: str = "maps"
    """A key of `LAYOUTS`."""
    stream: str = "image"
    """Whose vectors they are: the `image`'s or, in networks that carry both, the `text`'s."""
    width: str = "in_channels"
    """Attribute of the module that holds the number of channels d of a vector."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(y, x) of the site for latents of `height` x `width`."""
        return -(-height // 2**self.halvings), -(-width // 2**self.halvings)


def unet_sites(down: Sequence[int], up: Sequence[int], mid: int = 1) -> tuple[Site, ...]:
    """Sites of a UNet in the order of its forward pass, from the transformer blocks that each level has."""
    deepest = len(down) - 1
    names = [
        *((f"down.{level}.{i}", level) for level, count in enumerate(down) for i in range(count)),
        *((f"mid.{i}", deepest) for i in range(mid)),
        *((f"up.{level}.{i}", deepest - level) for level, count in enumerate(up) for i in range(count)),
    ]
    return tuple(Site(name, block_path(name), halvings) for name, halvings in names)


#: SDXL's eleven.
SDXL_SITES = unet_sites(down=(0, 2, 2), up=(3, 3, 0))
