"""The film strip of the Paint page: the last pictures made, and what each was made of."""

from dataclasses import dataclass

from PIL import Image

from unbox.explorer.canvas_state import MadeImage
from unbox.explorer.html import render
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.layers import summary
from unbox.explorer.served_pictures import PICTURES

#: Pictures at most, and pixels of a side of what is shown of each.
FRAMES, SIDE = 20, 96


@dataclass(frozen=True)
class Frame:
    """A picture that was made."""

    recipe: Recipe
    thumbnail: str
    """Its address."""

    @property
    def title(self) -> str:
        """What it is of, in a line."""
        edits = ", ".join(summary(edit) for edit in self.recipe.active)
        return f"seed {self.recipe.seed}, {edits or 'no edits'}"


def with_frame(film: tuple[Frame, ...], made: MadeImage | None) -> tuple[Frame, ...]:
    """The strip with a picture at its front; one that it had comes to the front."""
    if made is None or made.after is None:
        return film
    small = made.after.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    frame = Frame(made.recipe, PICTURES.image(small))
    return (frame, *(each for each in film if each.recipe != frame.recipe))[:FRAMES]


def film_html(film: tuple[Frame, ...]) -> str:
    """The strip as HTML; empty without a picture."""
    return render("film_strip.html", frames=film)
