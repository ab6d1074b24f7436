"""The explorer's HTML: its templates, and what they call to show pictures, maps and shares."""

from unbox.explorer.heat_map import heat_uri
from unbox.image_uri import file_uri, image_uri
from unbox.templates import Templates


def share(value: float) -> str:
    """A share in percent, small ones with more places."""
    return f"{value:.1%}" if value >= 0.001 or value == 0 else f"{value:.3%}"


render = Templates(
    "unbox.explorer", image_uri=image_uri, file_uri=file_uri, heat_uri=heat_uri, share=share
).render
