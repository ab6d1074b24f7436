"""The controls that say what picture is made, the same on every page that makes one."""

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from unbox.explorer import limits
from unbox.explorer.events import Updates, listen
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.session import ExplorerSession
from unbox.json_types import JSON


@dataclass(frozen=True)
class GenerationControls:
    """A component for each field of a recipe that has one, under the field's name."""

    system: gr.Dropdown
    prompt: gr.Textbox
    seed: gr.Number
    steps: gr.Number
    guidance: gr.Number
    height: gr.Number
    width: gr.Number
    negative_prompt: gr.Textbox

    @property
    def components(self) -> list[gr.components.Component]:
        """All of them, as inputs of an event; `recipe` reads their values."""
        return list(vars(self).values())

    def recipe(self, values: Sequence[JSON]) -> Recipe:
        """The recipe that the values of `components` say. Raises UnboxError for values that cannot be."""
        return Recipe.from_json(dict(zip(vars(self), values, strict=True)))

    def updates(self, recipe: Recipe) -> Updates:
        """What makes the controls show a recipe."""
        return {component: getattr(recipe, name) for name, component in vars(self).items()}

    def wire(self, session: ExplorerSession) -> None:
        """Another system brings its own steps, guidance and size."""
        settings = [self.steps, self.guidance, self.height, self.width]

        def settings_of(system: str) -> list[float]:
            recipe = session.defaults(system)
            return [recipe.steps, recipe.guidance, recipe.height, recipe.width]

        listen(self.system.input, settings_of, [self.system], settings, show_progress="hidden")


def draw(session: ExplorerSession, first: Recipe, key: str) -> GenerationControls:
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
    return GenerationControls(system, prompt, seed, steps, guidance, height, width, negative)
