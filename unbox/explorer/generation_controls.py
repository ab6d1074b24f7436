"""The controls that say what picture is made, the same on every page that makes one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from unbox.explorer import limits
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.session import ExplorerSession

#: The fields of a recipe that have a control, in their order.
FIELDS = ("system", "prompt", "seed", "steps", "guidance", "height", "width", "negative_prompt")


@dataclass(frozen=True)
class Controls:
    """Gradio components, one for each of FIELDS, in that order."""

    components: tuple[Any, ...]

    @property
    def prompt(self) -> Any:
        return self.components[FIELDS.index("prompt")]

    @property
    def system(self) -> Any:
        return self.components[FIELDS.index("system")]


def draw(session: ExplorerSession, first: Recipe, key: str) -> Controls:
    """Draw the controls with a recipe's values, inside `gr.Blocks`. `key` tells pages' controls apart."""
    with gr.Row(elem_classes="ub-toolbar"):
        prompt = gr.Textbox(
            first.prompt, label="Prompt", lines=1, max_lines=4, max_length=limits.PROMPT, scale=8,
            min_width=300, elem_id=f"{key}-prompt", placeholder="What to draw",
        )  # fmt: skip
        system = gr.Dropdown(
            list(session.systems), value=first.system, label="System", scale=2, min_width=170
        )
        seed = gr.Number(first.seed, label="Seed", precision=0, minimum=0, maximum=limits.SEED, scale=1,
                         min_width=90)  # fmt: skip
        steps = gr.Number(first.steps, label="Steps", precision=0, minimum=1, maximum=limits.STEPS, scale=1,
                          min_width=70)  # fmt: skip
    with gr.Accordion("Guidance, size, negative prompt", open=False):
        with gr.Row():
            guidance = gr.Number(first.guidance, label="Guidance", minimum=0, maximum=limits.GUIDANCE,
                                 min_width=80)  # fmt: skip
            height = gr.Number(first.height, label="Height", precision=0, minimum=32, maximum=limits.SIDE,
                               min_width=70)  # fmt: skip
            width = gr.Number(first.width, label="Width", precision=0, minimum=32, maximum=limits.SIDE,
                              min_width=70)  # fmt: skip
            negative = gr.Textbox(
                first.negative_prompt, label="Negative prompt (needs guidance above 1)",
                max_length=limits.PROMPT, scale=6, min_width=240,
            )  # fmt: skip
    return Controls((system, prompt, seed, steps, guidance, height, width, negative))


def recipe_of(own: Controls, data: Mapping[Any, Any], **rest: Any) -> Recipe:
    """The recipe that the controls say; `data` has a value for each component. Raises UnboxError for values
    that cannot be. `rest`: further fields of the recipe."""
    values = {name: data[component] for name, component in zip(FIELDS, own.components, strict=True)}
    return replace(Recipe.from_json(values), **rest)


def values_of(recipe: Recipe) -> tuple[Any, ...]:
    """The controls' values of a recipe."""
    return tuple(getattr(recipe, name) for name in FIELDS)


def settings_of(session: ExplorerSession, system: str) -> tuple[Any, ...]:
    """Steps, guidance, height and width that a system wants."""
    own = session.defaults(system)
    return own.steps, own.guidance, own.height, own.width
