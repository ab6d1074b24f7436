"""Every useful action as an API endpoint and, where the `mcp` package is installed, as an MCP tool."""

import base64
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import gradio as gr

from unbox.atlas import set_label
from unbox.explorer import limits, pictures, seen
from unbox.explorer.parts import Shell
from unbox.explorer.recipe import Recipe
from unbox.explorer.shell import DEVICE, polite
from unbox.words import UnboxError

#: Features that a request may ask for at most.
MOST = 200


def add(shell: Shell) -> None:
    """Add the endpoints to the app; call inside `gr.Blocks`."""
    for name, (function, device) in endpoints(shell).items():
        queue: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": DEVICE} if device else {}
        gr.api(
            polite(function),
            api_name=name,
            api_description=" ".join((function.__doc__ or "").split()),
            **queue,
        )


def endpoints(shell: Shell) -> dict[str, tuple[Callable[..., Any], bool]]:
    """Name -> (function, whether it runs the model)."""
    lab = shell.lab

    def atlas() -> Any:
        if lab.atlas is None:
            raise UnboxError("the explorer was started without an atlas")
        return lab.atlas

    def systems() -> list:
        """The systems that can make pictures here, and which one is the default."""
        return [{"system": name, "default": name == lab.default} for name in lab.systems]

    def generate(
        prompt: str, seed: int = 0, steps: int = 0, system: str = "", edits: list | None = None
    ) -> dict:
        """Make a picture. steps 0 and system "" mean the defaults. edits: list of edit objects, like
        {"block": "up.0.1", "feature": [17], "op": "add", "value": 3, "unit": "deviation", "where":
        {"box": [0, 0, 1, 1]}}. Gives image (a data URI of a PNG that carries its recipe) and recipe."""
        recipe = recipe_of(lab, prompt, seed, steps, system, edits or [])
        (image,) = lab.generate([recipe])
        return _picture(image, recipe)

    def see(prompt: str, seed: int = 0, steps: int = 0, system: str = "", count: int = 10) -> dict:
        """Make a picture and list the features that fire most in it, by SAE: name, label, mean activation."""
        recipe = recipe_of(lab, prompt, seed, steps, system, [])
        many = limits.whole("count", count, 1, MOST)
        sight = lab.look(recipe)
        found = {sae: sight.strongest(sae, None, many, lab.rarity(sae)) for sae in sight.values}
        facts = seen.facts_of(lab, [f"{sae}/{i}" for sae, rows in found.items() for i, _ in rows])
        features = {
            sae: [
                {"name": f"{sae}/{i}", "label": facts[f"{sae}/{i}"].label if f"{sae}/{i}" in facts else "",
                 "activation": value}
                for i, value in rows
            ]
            for sae, rows in found.items()
        }  # fmt: skip
        return _picture(sight.image, recipe) | {"features": features}

    def edit(recipe: dict) -> dict:
        """Make a picture from a recipe (as the explorer copies it, or as a saved PNG holds it) without
        and with its edits: before, after (data URIs), recipe."""
        asked = Recipe.from_json(recipe)
        before, after = (pictures.uri(image, "PNG") for image in lab.generate([asked.plain, asked]))
        return {"before": before, "after": after, "recipe": asked.to_json()}

    def feature(name: str) -> dict:
        """What is known about a feature, named like up.0.1/17: statistics, label, words, related features."""
        found = atlas()
        facts = found.feature(limits.text("name", name, 200))
        related = {
            kind: [
                {"name": r.facts.name, "label": r.facts.label, "score": r.score}
                for r in found.related(facts.id, kind)
            ]
            for kind in ("neighbours", "coactive", "elsewhere")
        }
        labels = [asdict(label) for label in found.labels(facts.id)]
        words = [{"word": word, "z": z} for word, z in found.words(facts.id)]
        return asdict(facts) | {"words": words, "labels": labels} | related

    def find(words: str, by: str = "words", block: str = "", limit: int = 20) -> list:
        """Search features by the words of their labels and captions, or (by = "meaning") by what their
        captions mean. block "" is all blocks. Gives name, label and statistics of each."""
        asked = limits.text("words", words, 300)
        many = limits.whole("limit", limit, 1, MOST)
        if by == "meaning":
            rows = atlas().meaning(lab.model(lab.default), asked, many, block or None)
            return [asdict(r.facts) | {"likeness": r.score} for r in rows]
        if by != "words":
            raise UnboxError("by is 'words' or 'meaning'")
        return [asdict(f) for f in atlas().search(asked, block=block or None, limit=many)]

    def label(name: str, text: str, author: str) -> str:
        """Give a feature a label; an empty text takes this author's labels away."""
        set_label(atlas(), limits.text("name", name, 200), text, limits.text("author", author, 200))
        return f"{name} is now called '{atlas().feature(name).label}'"

    return {
        "systems": (systems, False), "generate": (generate, True), "see_features": (see, True),
        "edit": (edit, True), "feature": (feature, False), "search_features": (find, False),
        "label_feature": (label, False),
    }  # fmt: skip


def recipe_of(lab: Any, prompt: Any, seed: Any, steps: Any, system: Any, edits: Any) -> Recipe:
    """The recipe that a request asks for, with the system's own settings where it says nothing."""
    base = lab.defaults(limits.text("system", system, 200) or lab.default)
    wanted = base.to_json() | {"prompt": prompt, "seed": seed, "edits": edits}
    recipe = Recipe.from_json(wanted)
    return replace(recipe, steps=limits.steps(steps)) if steps else recipe


def _picture(image: Any, recipe: Recipe) -> dict:
    data = base64.b64encode(pictures.png_with_recipe(image, recipe.to_json())).decode("ascii")
    return {"image": f"data:image/png;base64,{data}", "recipe": recipe.to_json()}
