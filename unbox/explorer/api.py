"""Every useful action as an API endpoint and, where the `mcp` package is installed, as an MCP tool."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import wraps
from inspect import signature
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import gradio as gr
from annotated_types import Ge, Le
from PIL import Image

from unbox.atlas import Atlas, Filter, set_label
from unbox.atlas.query import RELATED
from unbox.errors import FieldError, UnboxError
from unbox.explorer import limits
from unbox.explorer.device_runs import on_device
from unbox.explorer.events import with_user_errors
from unbox.explorer.feature_summaries import direction_named, facts_of
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.pages import blocks_page, compare_page
from unbox.explorer.queue_limits import DEVICE
from unbox.explorer.session import ExplorerSession
from unbox.explorer.strength_strip import STRENGTHS, generate_strip
from unbox.image_uri import file_uri, image_uri
from unbox.json_types import JSON
from unbox.validation import JSONObject, Seed, Whole, checked

P = ParamSpec("P")
R = TypeVar("R")

#: The rule of each argument of the endpoints, by its name.
RULES: Mapping[str, Any] = {
    "prompt": limits.Prompt, "seed": Seed, "steps": limits.StepsOrNone, "system": limits.Line,
    "edits": limits.ImageEdits, "count": limits.Many, "limit": limits.Many, "x": limits.Fraction,
    "y": limits.Fraction, "recipe": JSONObject, "other": JSONObject, "control": bool, "name": limits.Line,
    "kind": limits.Line, "interval": Annotated[Whole, Ge(-1), Le(99)], "words": limits.Words,
    "by": Literal["words", "meaning"], "block": limits.Line, "text": limits.Line, "author": limits.Line,
}  # fmt: skip


def add(session: ExplorerSession) -> None:
    """Add the endpoints to the app; call inside `gr.Blocks`."""
    for name, (endpoint, device) in Endpoints(session).table().items():
        function = with_rules(name, endpoint)
        answer = on_device(with_user_errors(function)) if device else with_user_errors(function)
        answer.__name__ = name  # Gradio names an MCP tool after its function, not after its endpoint
        gr.api(
            answer, api_name=name, api_description=" ".join((function.__doc__ or "").split()),
            concurrency_limit=1 if device else "default", concurrency_id=DEVICE if device else None,
        )  # fmt: skip


def with_rules(endpoint: str, function: Callable[P, R]) -> Callable[P, R]:
    """The function, its arguments checked by RULES first. Raises FieldError, whose door is the endpoint."""
    names = signature(function)

    @wraps(function)
    def answer(*arguments: P.args, **named: P.kwargs) -> R:
        given = names.bind(*arguments, **named)
        for name, value in given.arguments.items():
            given.arguments[name] = checked(RULES[name], name, value, endpoint)
        return function(*given.args, **given.kwargs)  # type: ignore[arg-type]  # as they were given

    return answer


class Endpoints:
    """The functions behind the endpoints. Their docstrings are the descriptions that clients are given."""

    def __init__(self, session: ExplorerSession) -> None:
        self.session = session

    def table(self) -> dict[str, tuple[Callable[..., object], bool]]:
        """Name -> (function, whether it runs the model)."""
        return {
            "systems": (self.systems, False), "generate": (self.generate, True),
            "see_features": (self.see_features, True), "features_at": (self.features_at, True),
            "edit": (self.edit, True), "compare": (self.compare, True),
            "strengths": (self.strengths, True), "feature": (self.feature, False),
            "examples": (self.examples, False), "search_features": (self.search_features, False),
            "label_feature": (self.label_feature, False), "blocks": (self.blocks, False),
        }  # fmt: skip

    def systems(self) -> list:
        """The systems that can make pictures here, and which one is the default."""
        return [{"system": name, "default": name == self.session.default} for name in self.session.systems]

    def generate(
        self, prompt: str, seed: int = 0, steps: int = 0, system: str = "", edits: list | None = None
    ) -> dict:
        """Make a picture. steps 0 and system "" mean the defaults. edits: list of edit objects, like
        {"block": "up.0.1", "feature": [17], "op": "add", "value": 3, "unit": "deviation", "where":
        {"box": [0, 0, 1, 1]}}. Gives image (a data URI of a PNG that carries its recipe) and recipe."""
        recipe = self._recipe(prompt, seed, steps, system, edits)
        (image,) = self.session.generate([recipe])
        return _image(image, recipe)

    def see_features(
        self, prompt: str, seed: int = 0, steps: int = 0, system: str = "", count: int = 10
    ) -> dict:
        """Make a picture and list the features that fire most in it, by SAE: name, label, mean activation."""
        recipe = self._recipe(prompt, seed, steps, system)
        recorded, rarity = self.session.record(recipe), self.session.rarity
        found = {sae: recorded.strongest(sae, None, count, rarity(sae)) for sae in recorded.values}
        return _image(recorded.image, recipe) | {"features": self._named(found)}

    def features_at(
        self, prompt: str, x: float, y: float, seed: int = 0, steps: int = 0, system: str = "", count: int = 5
    ) -> dict:
        """Make a picture and list the features that fire most at one place of it, by SAE. x and y are
        fractions of the width and height from the upper left corner, 0 to 1 (1 not included)."""
        recorded = self.session.record(self._recipe(prompt, seed, steps, system))
        rarity = self.session.rarity
        return self._named({sae: recorded.at(sae, x, y, None, count, rarity(sae)) for sae in recorded.values})

    def edit(self, recipe: dict, control: bool = False) -> dict:
        """Make a picture from a recipe (as the explorer copies it, or as a saved PNG holds it; the system's
        own steps, guidance and size where it says none) without and with its edits: before, after (data
        URIs), recipe. control: random features of equal norm in
        place of the edits', to see what any feature would do."""
        given = self.session.completed(recipe)
        edited = self.session.random_control(given) if control else given
        before, after = self.session.generate([given.plain, edited])
        images = {"before": image_uri(before, "PNG"), "after": image_uri(after, "PNG")}
        return {**images, "recipe": edited.to_json()}

    def compare(self, recipe: dict, other: dict) -> dict:
        """Make the pictures of two recipes and list the features that fire more in the one or in the other,
        by SAE: left, right (data URIs), more_left, more_right (name, label, difference of activation)."""
        left, right = (self.session.record(self.session.completed(each)) for each in (recipe, other))
        sides = compare_page.differing(self.session, left, right)
        return {
            "left": image_uri(left.image, "PNG"), "right": image_uri(right.image, "PNG"),
            "more_left": self._named({sae: less for sae, (_, less) in sides.items()}),
            "more_right": self._named({sae: more for sae, (more, _) in sides.items()}),
        }  # fmt: skip

    def strengths(self, name: str, prompt: str = "", seed: int = 0) -> dict:
        """A feature's icon (it alone, on an empty prompt) and one picture at several strengths of it, in
        deviations of the block's updates: icon, strengths (list of strength and image)."""
        icon, *pictures = (
            image_uri(image, "PNG") for image in generate_strip(self.session, name, prompt, seed)
        )
        strengths = [{"strength": s, "image": image} for s, image in zip(STRENGTHS, pictures, strict=True)]
        return {"icon": icon, "strengths": strengths}

    def feature(self, name: str) -> dict:
        """What is known about a feature, named like up.0.1/17: statistics, label, words, related features;
        of a direction its kind, length and the features that it is made of too."""
        direction = direction_named(self.session, name)
        if direction is not None and name.rpartition("/")[0] in self.session.brushes:
            return {"name": name, "label": direction.label, "direction": asdict(direction)}
        found = self._atlas()
        facts = found.feature(name)
        related = {
            kind: [{"name": r.facts.name, "label": r.facts.label, "score": r.score} for r in rows]
            for kind in RELATED for rows in (found.related(facts.id, kind),)
        }  # fmt: skip
        labels = [asdict(label) for label in found.labels(facts.id)]
        words = [{"word": word, "z": z} for word, z in found.words(facts.id)]
        named = {} if direction is None else {"direction": asdict(direction)}
        return asdict(facts) | {"words": words, "labels": labels} | related | named

    def examples(self, name: str, kind: str = "top", interval: int = -1) -> list:
        """Images that show a feature. kind: top, random (images in which it fires at all), decoys (silent in
        them though the captions are alike), or interval with its number (0 is the weakest activations).
        Gives prompt, seed, peak activation, image (data URI) and heat (rows of activations) of each."""
        if kind == "interval" and interval < 0:
            raise FieldError("examples", "interval", interval, "should be at least 0 for this kind")
        found = self._atlas().examples(name, kind, interval if kind == "interval" else None)
        return [
            {"prompt": e.prompt, "seed": e.seed, "peak": e.peak, "image": file_uri(e.thumbnail),
             "heat": e.heat.round(3).tolist()}
            for e in found
        ]  # fmt: skip

    def blocks(self) -> dict:
        """Figures of each block's SAE: width, latents, k, held-out figures, and what the atlas counted."""
        summary = () if self.session.atlas is None else self.session.atlas.summary()
        rows = {row[0]: row[1:] for row in summary}
        names = ("features", "active", "labelled", "median_density", "mean_label_score", "scored_labels")
        return {
            name: {"block": sae.block, "width": sae.width, "latents": sae.latents, "k": sae.k,
                   "held_out": blocks_page.figures_of(self.session, name),
                   "atlas": dict(zip(names, rows[name], strict=True)) if name in rows else {}}
            for name, sae in self.session.saes.items()
        }  # fmt: skip

    def search_features(self, words: str, by: str = "words", block: str = "", limit: int = 20) -> list:
        """Search features by the words of their labels and captions, or (by = "meaning") by what their
        captions mean. block "" is all blocks; a name like up.0.1/17 or an index finds that feature.
        Gives name, label and statistics of each."""
        among = Filter(block=block or None)
        if by == "meaning":
            model = self.session.model(self.session.default)
            rows = self._atlas().meaning(model, words, among, limit=limit)
            return [asdict(r.facts) | {"likeness": r.score} for r in rows]
        return [asdict(f) for f in self._atlas().find(words, among, limit=limit).found]

    def label_feature(self, name: str, text: str, author: str) -> str:
        """Give a feature a label; an empty text takes this author's labels away."""
        set_label(self._atlas(), name, text, author)
        return f"{name} is now called '{self._atlas().feature(name).label}'"

    def _atlas(self) -> Atlas:
        if self.session.atlas is None:
            raise UnboxError("the explorer was started without an atlas")
        return self.session.atlas

    def _recipe(self, prompt: str, seed: int, steps: int, system: str, edits: Any = None) -> Recipe:
        """The recipe that a request asks for, with the system's own settings where it says nothing."""
        base = self.session.defaults(system or self.session.default)
        recipe = replace(base, prompt=prompt, seed=seed, edits=edits)
        return replace(recipe, steps=steps) if steps else recipe

    def _named(self, found: Mapping[str, Sequence[tuple[str, float]]]) -> dict[str, list[dict[str, JSON]]]:
        """Features by SAE, (name, activation) each, as JSON with their labels."""
        known = facts_of(self.session, [name for rows in found.values() for name, _ in rows])
        label = {name: facts.label for name, facts in known.items()}.get
        return {
            sae: [{"name": name, "label": label(name, ""), "activation": value} for name, value in rows]
            for sae, rows in found.items()
        }


def _image(image: Image.Image, recipe: Recipe) -> dict[str, JSON]:
    return {"image": recipe.to_png_uri(image), "recipe": recipe.to_json()}
