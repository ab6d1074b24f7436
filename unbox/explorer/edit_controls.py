"""The controls that say what an edit does."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

import gradio as gr
from annotated_types import MaxLen
from pydantic import PlainValidator

from unbox.edit import BRANCHES, UNITS, Branch, Edit, Unit
from unbox.errors import FieldError
from unbox.explorer import limits
from unbox.explorer.events import Updates
from unbox.explorer.feature_scale import feature_scale
from unbox.explorer.session import ExplorerSession
from unbox.json_types import JSON
from unbox.mask import Mask
from unbox.validation import checked, parsed, validated

Op = Literal["add", "scale", "set", "ablate", "replace", "swap"]
OPS = get_args(Op)
ALL_STEPS = "all"
Place = Literal["everywhere", "painted mask", "where it fires"]
EVERYWHERE, PAINTED, FIRING = get_args(Place)


_Short = Annotated[limits.Words, MaxLen(9)]


def _steps(value: object) -> tuple[int, int] | None:
    """The half-open range of steps that `all`, `2` or `0-2` (both included) means; None is all steps."""
    text = checked(_Short, "", value).replace(" ", "") or ALL_STEPS
    if text == ALL_STEPS:
        return None
    if not re.fullmatch(r"[0-9]+(-[0-9]+)?", text):
        raise ValueError("should be 'all', one like '2', or several like '0-2'")
    first, _, last = text.partition("-")
    if int(last or first) < int(first):
        raise ValueError("should begin with the first step")
    return int(first), int(last or first) + 1


TypedSteps = Annotated[tuple[int, int] | None, PlainValidator(_steps)]


@validated
class EditForm:
    """What the controls of an edit say."""

    feature: limits.Line
    op: Op
    strength: limits.Strength
    unit: Unit
    steps: TypedSteps
    branch: Branch
    where: Place


@dataclass(frozen=True)
class EditControls:
    """A component for each thing that an edit says."""

    feature: gr.Textbox
    op: gr.Dropdown
    strength: gr.Number
    unit: gr.Dropdown
    steps: gr.Textbox
    branch: gr.Dropdown
    where: gr.Radio

    @property
    def components(self) -> list[gr.components.Component]:
        """All of them, as inputs of an event; `edit_of` reads their values."""
        return list(vars(self).values())

    @property
    def brush(self) -> list[gr.components.Component]:
        """The components of `taken`."""
        return [self.feature, self.strength, self.unit, self.op]

    def taken(self, session: ExplorerSession, name: str) -> Updates:
        """What makes the controls add a feature at a strength at which it shows."""
        strength = feature_scale(session, name).start
        return {self.feature: name, self.strength: strength, self.unit: "deviation", self.op: "add"}

    def updates(self, edit: Edit) -> Updates:
        """What makes the controls show an edit."""
        where = EVERYWHERE if edit.where is None else FIRING if edit.where.own else PAINTED
        return {
            self.feature: f"{edit.source or edit.block}/{edit.feature[0]}" if edit.feature else edit.block,
            self.op: edit.op,
            self.strength: edit.value if isinstance(edit.value, float) else edit.value[0],
            self.unit: edit.unit,
            self.steps: ALL_STEPS if edit.steps is None else f"{edit.steps[0]}-{edit.steps[1] - 1}",
            self.branch: edit.branch,
            self.where: where,
        }


def draw(session: ExplorerSession, feature: str) -> EditControls:
    """Draw the controls, inside `gr.Blocks`, with a feature named."""
    with gr.Row(elem_classes="ub-toolbar"):
        name = gr.Textbox(feature, label="Feature", placeholder=session.example_name, max_length=200,
                          elem_id="paint-feature", min_width=120, scale=2)  # fmt: skip
        first = feature_scale(session, feature).start
        strength = gr.Number(first, label="Strength", minimum=-limits.STRENGTH, maximum=limits.STRENGTH,
                             elem_id="paint-strength", min_width=80)  # fmt: skip
        op = gr.Dropdown(list(OPS), value="add", label="Op", min_width=90, elem_id="paint-op")
    with gr.Accordion("Where, unit, steps, branch", open=False, elem_id="paint-details"):
        places = [EVERYWHERE, PAINTED, FIRING]
        where = gr.Radio(places, value=EVERYWHERE, label="Where", elem_id="paint-where")
        with gr.Row():
            unit = gr.Dropdown(list(UNITS), value="deviation", label="Unit", min_width=100)
            steps = gr.Textbox(ALL_STEPS, label="Steps", max_length=9, min_width=80, elem_id="paint-steps",
                               placeholder="all, 0 or 0-2")  # fmt: skip
            branch = gr.Dropdown(list(BRANCHES), value="both", label="Branch", min_width=90)
    return EditControls(name, op, strength, unit, steps, branch, where)


def edit_of(session: ExplorerSession, mask: Mask | None, values: Sequence[JSON]) -> Edit:
    """The edit that the values of `EditControls.components` say. Raises UnboxError for what is no edit.

    `mask`: what is painted, for an edit that acts there.
    """
    form = parsed(EditForm, dict(zip(EditForm.__dataclass_fields__, values, strict=True)), "edit")
    feature = session.feature(form.feature)
    if form.where == PAINTED and mask is None:
        raise FieldError("edit", "where", form.where, "should be another: paint on the picture first")
    if form.op == "ablate":
        edit = feature.ablate(branch=form.branch)
    elif form.op == "scale":
        edit = feature.scale(form.strength, branch=form.branch)
    elif form.op == "swap":
        if not 0 <= form.strength <= 1:
            rule = "should be from 0 to 1: how much of the update gives way to another place's"
            raise FieldError("edit", "strength", form.strength, rule)
        edit = feature.swap(form.strength, branch=form.branch)
    else:
        methods = {"add": feature.add, "set": feature.set, "replace": feature.replace}
        edit = methods[form.op](form.strength, unit=form.unit, branch=form.branch)
    where = {EVERYWHERE: None, PAINTED: mask, FIRING: Mask.of("own")}[form.where]
    return replace(edit, where=where, steps=form.steps)
