"""The controls that say what picture is made, the same on every page that makes one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import gradio as gr

from unbox.explorer import limits
from unbox.explorer.events import Updates, listen
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.session import ExplorerSession
from unbox.json_types import JSON
from unbox.validation import checked


@dataclass(frozen=True)
class GenerationControls:
    """A component for each field of a recipe that has one, under the field's name."""

    system: gr.Dropdown
    prompt: gr.Textbox
    seed: gr.Textbox
    steps: gr.Number
    guidance: gr.Number
    height: gr.Number
    width: gr.Number
    negative_prompt: gr.Textbox

    @property
    def components(self) -> list[gr.Dropdown | gr.Textbox | gr.Number]:
        """All of them, as inputs of an event; `recipe` reads their values."""
        return list(vars(self).values())

    def recipe(self, values: Sequence[JSON]) -> Recipe:
        """The recipe that the values of `components` say. Raises UnboxError for values that cannot be."""
        given = dict(zip(vars(self), values, strict=True))
        seed = checked(limits.TypedSeed, "seed", given["seed"], "picture")
        # an empty field is none: in a recipe "" would be a text of its own
        return Recipe.from_json(
            given | {"seed": seed, "negative_prompt": given["negative_prompt"] or None}, "picture"
        )

    def updates(self, recipe: Recipe) -> Updates:
        """What makes the controls show a recipe."""
        shown = {component: getattr(recipe, name) for name, component in vars(self).items()}
        return shown | {self.seed: str(recipe.seed)}


def seed_box(value: int) -> gr.Textbox:
    """Where a seed is typed, as text: all 64 bits of it. `limits.TypedSeed` reads it."""
    return gr.Textbox(str(value), label="Seed", lines=1, max_lines=1, max_length=limits.SEED_DIGITS, scale=1,
                      min_width=90)  # fmt: skip


def draw(session: ExplorerSession, first: Recipe, key: str) -> GenerationControls:
    """Draw the controls with a recipe's values, inside `gr.Blocks`. `key` tells pages' controls apart.

    Another system brings its own steps, guidance and size.
    """
    whole = partial(gr.Number, precision=0)
    with gr.Row(elem_classes="ub-toolbar"):
        prompt = gr.Textbox(
            first.prompt, label="Prompt", lines=1, max_lines=4, max_length=limits.PROMPT, scale=8,
            min_width=300, elem_id=f"{key}-prompt", placeholder="What to draw",
        )  # fmt: skip
        system = gr.Dropdown(session.systems, value=first.system, label="System", scale=2, min_width=170)
        seed = seed_box(first.seed)
        steps = whole(first.steps, label="Steps", minimum=1, maximum=limits.STEPS, scale=1, min_width=70)
    with gr.Accordion("Guidance, size, negative prompt", open=False), gr.Row():
        guidance = gr.Number(first.guidance, label="Guidance", minimum=0, maximum=limits.GUIDANCE,
                             min_width=80)  # fmt: skip
        height = whole(first.height, label="Height", minimum=32, maximum=limits.SIDE, min_width=70)
        width = whole(first.width, label="Width", minimum=32, maximum=limits.SIDE, min_width=70)
        negative = gr.Textbox(
            first.negative_prompt, label="Negative prompt (needs guidance above 1)",
            max_length=limits.PROMPT, scale=6, min_width=240,
        )  # fmt: skip

    def settings_of(system: str) -> list[float]:
        recipe = session.defaults(system)
        return [recipe.steps, recipe.guidance, recipe.height, recipe.width]

    settings = [steps, guidance, height, width]
    listen(system.input, settings_of, [system], settings, show_progress="hidden")
    return GenerationControls(system, prompt, seed, steps, guidance, height, width, negative)
