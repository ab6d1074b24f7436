"""X/Y plots: one picture for each pair of values, of strength, seed, feature, block or step."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Le, MinLen
from PIL import Image

from unbox.edit import Edits
from unbox.edits.strength import at_strength, of_blocks, within_steps
from unbox.errors import FieldError, UnboxError
from unbox.explorer import limits
from unbox.explorer.feature_scale import feature_scale
from unbox.explorer.html import render
from unbox.explorer.image_difference import mean_change
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.session import ExplorerSession
from unbox.validation import Real, Seed, StepIndex, checked, validated

Axis = Literal["strength", "seed", "feature", "block", "step"]
AXES = get_args(Axis)
#: Values of an axis, and pictures of a plot, at most; pictures that are made at a time.
VALUES, PICTURES, AT_ONCE = 24, 144, 4
#: What each axis is filled with at first, and the form of its values.
EXAMPLES: dict[str, str] = {
    "strength": "0, 0.5, 1, 1.5, 2", "seed": "0-3", "feature": "", "block": "", "step": "0",
}  # fmt: skip

Text = Annotated[limits.Words, MinLen(1)]
_Factor = Annotated[Real, Ge(-limits.STRENGTH), Le(limits.STRENGTH)]
_RULES = {"strength": _Factor, "seed": Seed, "feature": limits.Line, "block": limits.Line, "step": StepIndex}


@validated
class GridPlan:
    """What a plot is of."""

    x: Axis
    x_values: Text
    y: Axis
    y_values: Text

    def __post_init__(self) -> None:
        if self.x == self.y:
            raise FieldError("", "y", self.y, "should be another than x")
        if (count := len(self.columns) * len(self.rows)) > PICTURES:
            rule = f"should be at most {PICTURES} pictures together with the other axis"
            raise FieldError("", "x_values", f"{count} pictures", rule)

    @property
    def columns(self) -> list[str]:
        """Values of x."""
        return values_of(self.x, self.x_values, "x_values")

    @property
    def rows(self) -> list[str]:
        """Values of y."""
        return values_of(self.y, self.y_values, "y_values")


def values_of(axis: str, text: str, field: str) -> list[str]:
    """The values that a text lists with commas; whole numbers also as a range, `0-3`. Raises FieldError."""
    found: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        span = re.fullmatch(r"(\d{1,9})-(\d{1,9})", part) if axis in ("seed", "step") else None
        if span is not None and 0 <= int(span[2]) - int(span[1]) < VALUES:
            found += [str(each) for each in range(int(span[1]), int(span[2]) + 1)]
        else:
            found.append(part)
    for each in found:
        checked(_RULES[axis], field, _number(axis, each), "plot")
    if len(different := list(dict.fromkeys(found))) > VALUES:
        raise FieldError("plot", field, f"{len(different)} values", f"should be at most {VALUES}")
    return different


def _number(axis: str, text: str) -> object:
    kinds: dict[str, Callable[[str], object]] = {"strength": float, "seed": int, "step": int}
    try:
        return kinds.get(axis, str)(text)
    except ValueError:
        return text  # which the axis's rule refuses


def applied(session: ExplorerSession, recipe: Recipe, axes: dict[str, str]) -> Recipe:
    """The recipe with a value of each axis: its feature first, then block, step, strength and seed."""
    edits = recipe.active
    if (name := axes.get("feature")) is not None:
        strength = feature_scale(session, name).start
        edits = Edits((session.feature(name).add(strength, unit="deviation"),))
    if (block := axes.get("block")) is not None:
        blocks = edits.blocks
        edits = of_blocks(edits, (block,))
        if not len(edits):
            there = ", ".join(blocks) or "none"
            raise FieldError("plot", "block", block, f"should be one that is edited; there are {there}")
    if (step := axes.get("step")) is not None:
        edits = within_steps(edits, int(step), int(step) + 1)
    if (strength_ := axes.get("strength")) is not None:
        edits = at_strength(edits, float(strength_))
    seed = recipe.seed if "seed" not in axes else int(axes["seed"])
    return replace(recipe, edits=edits, off=frozenset(), seed=seed)


@dataclass(frozen=True)
class GridCell:
    """A picture of the plot."""

    recipe: Recipe
    image: Image.Image
    change: float
    """Mean absolute change from the picture without edits, of 255."""


def cells(
    session: ExplorerSession, recipe: Recipe, plan: GridPlan, told: Callable[[int, int], None]
) -> Iterator[GridCell]:
    """The pictures of a plot, row by row, a few at a time; `told(done, all)` between them. Raises UnboxError
    for a plot whose edits are none."""
    if plan.x != "feature" and plan.y != "feature" and not len(recipe.active):
        raise UnboxError("no edit is on: paint with a feature, or take 'feature' as an axis")
    recipes = [
        applied(session, recipe, {plan.x: x, plan.y: y}) for y in plan.rows for x in plan.columns
    ]  # fmt: skip
    for start in range(0, len(recipes), AT_ONCE):
        told(start, len(recipes))
        some = recipes[start : start + AT_ONCE]
        plain = list(dict.fromkeys(each.plain for each in some))
        pictures = dict(zip(plain, session.generate(plain), strict=True))
        for each, image in zip(some, session.generate(some), strict=True):
            yield GridCell(each, image, mean_change(pictures[each.plain], image)[0])


def grid_html(plan: GridPlan, found: list[GridCell]) -> str:
    """A plot as HTML."""
    columns = plan.columns
    rows = [
        (value, found[i * len(columns) : (i + 1) * len(columns)]) for i, value in enumerate(plan.rows)
    ]  # fmt: skip
    return render("picture_grid.html", plan=plan, columns=columns, rows=rows)
