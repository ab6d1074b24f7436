"""Every useful action as an API endpoint and, where the `mcp` package is installed, as an MCP tool."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import gradio as gr
from PIL import Image

from unbox.atlas import Atlas, Filter, set_label
from unbox.atlas.query import RELATED
from unbox.errors import UnboxError
from unbox.explorer import limits
from unbox.explorer.device_runs import on_device
from unbox.explorer.events import DEVICE, with_user_errors
from unbox.explorer.feature_summaries import facts_of
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.pages import blocks_page, compare_page
from unbox.explorer.session import ExplorerSession
from unbox.explorer.strength_strip import STRENGTHS, generate_strip
from unbox.image_uri import file_uri, image_uri
from unbox.json_types import JSON

#: Features that a request may ask for at most.
MOST = 200


def add(session: ExplorerSession) -> None:
    """Add the endpoints to the app; call inside `gr.Blocks`."""
    for name, (function, device) in Endpoints(session).table().items():
        answer = on_device(with_user_errors(function)) if device else with_user_errors(function)
        answer.__name__ = name  # Gradio names an MCP tool after its function, not after its endpoint
        gr.api(
            answer, api_name=name, api_description=" ".join((function.__doc__ or "").split()),
            concurrency_limit=1 if device else "default", concurrency_id=DEVICE if device else None,
        )  # fmt: skip


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
        recipe = self._recipe(prompt, seed, steps, system, edits or [])
        (image,) = self.session.generate([recipe])
        return _image(image, recipe)

    def see_features(
        self, prompt: str, seed: int = 0, steps: int = 0, system: str = "", count: int = 10
    ) -> dict:
        """Make a picture and list the features that fire most in it, by SAE: name, label, mean activation."""
        recipe = self._recipe(prompt, seed, steps, system)
        many, rarity = limits.whole("count", count, 1, MOST), self.session.rarity
        recorded = self.session.record(recipe)
        found = {sae: recorded.strongest(sae, None, many, rarity(sae)) for sae in recorded.values}
        return _image(recorded.image, recipe) | {"features": self._named(found)}

    def features_at(
        self, prompt: str, x: float, y: float, seed: int = 0, steps: int = 0, system: str = "", count: int = 5
    ) -> dict:
        """Make a picture and list the features that fire most at one place of it, by SAE. x and y are
        fractions of the width and height from the upper left corner, 0 to 1 (1 not included)."""
        x, y = (limits.number(name, value, 0.0, 0.9999) for name, value in (("x", x), ("y", y)))
        recorded = self.session.record(self._recipe(prompt, seed, steps, system))
        many, rarity = limits.whole("count", count, 1, MOST), self.session.rarity
        return self._named({sae: recorded.at(sae, x, y, None, many, rarity(sae)) for sae in recorded.values})

    def edit(self, recipe: dict, control: bool = False) -> dict:
        """Make a picture from a recipe (as the explorer copies it, or as a saved PNG holds it) without
        and with its edits: before, after (data URIs), recipe. control: random features of equal norm in
        place of the edits', to see what any feature would do."""
        given = Recipe.from_json(recipe)
        edited = self.session.random_control(given) if control else given
        before, after = self.session.generate([given.plain, edited])
        images = {"before": image_uri(before, "PNG"), "after": image_uri(after, "PNG")}
        return {**images, "recipe": edited.to_json()}

    def compare(self, recipe: dict, other: dict) -> dict:
        """Make the pictures of two recipes and list the features that fire more in the one or in the other,
        by SAE: left, right (data URIs), more_left, more_right (name, label, difference of activation)."""
        left, right = (self.session.record(Recipe.from_json(each)) for each in (recipe, other))
        sides = compare_page.differing(self.session, left, right)
        return {
            "left": image_uri(left.image, "PNG"), "right": image_uri(right.image, "PNG"),
            "more_left": self._named({sae: less for sae, (_, less) in sides.items()}),
            "more_right": self._named({sae: more for sae, (more, _) in sides.items()}),
        }  # fmt: skip

    def strengths(self, name: str, prompt: str = "", seed: int = 0) -> dict:
        """A feature's icon (it alone, on an empty prompt) and one picture at several strengths of it, in
        deviations of the block's updates: icon, strengths (list of strength and image)."""
        name, prompt = limits.text("name", name, 200), limits.text("prompt", prompt)
        icon, *pictures = (
            image_uri(image, "PNG") for image in generate_strip(self.session, name, prompt, seed)
        )
        strengths = [{"strength": s, "image": image} for s, image in zip(STRENGTHS, pictures, strict=True)]
        return {"icon": icon, "strengths": strengths}

    def feature(self, name: str) -> dict:
        """What is known about a feature, named like up.0.1/17: statistics, label, words, related features."""
        found = self._atlas()
        facts = found.feature(limits.text("name", name, 200))
        related = {
            kind: [{"name": r.facts.name, "label": r.facts.label, "score": r.score} for r in rows]
            for kind in RELATED for rows in (found.related(facts.id, kind),)
        }  # fmt: skip
        labels = [asdict(label) for label in found.labels(facts.id)]
        words = [{"word": word, "z": z} for word, z in found.words(facts.id)]
        return asdict(facts) | {"words": words, "labels": labels} | related

    def examples(self, name: str, kind: str = "top", interval: int = -1) -> list:
        """Images that show a feature. kind: top, random (images in which it fires at all), decoys (silent in
        them though the captions are alike), or interval with its number (0 is the weakest activations).
        Gives prompt, seed, peak activation, image (data URI) and heat (rows of activations) of each."""
        which = limits.whole("interval", interval, 0, 99) if kind == "interval" else None
        found = self._atlas().examples(limits.text("name", name, 200), limits.text("kind", kind, 20), which)
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
        words = limits.text("words", words, 300)
        many, among = limits.whole("limit", limit, 1, MOST), Filter(block=block or None)
        if by == "meaning":
            model = self.session.model(self.session.default)
            rows = self._atlas().meaning(model, words, among, limit=many)
            return [asdict(r.facts) | {"likeness": r.score} for r in rows]
        if by != "words":
            raise UnboxError("by is 'words' or 'meaning'")
        return [asdict(f) for f in self._atlas().search(words, among, limit=many)]

    def label_feature(self, name: str, text: str, author: str) -> str:
        """Give a feature a label; an empty text takes this author's labels away."""
        set_label(self._atlas(), limits.text("name", name, 200), text, limits.text("author", author, 200))
        return f"{name} is now called '{self._atlas().feature(name).label}'"

    def _atlas(self) -> Atlas:
        if self.session.atlas is None:
            raise UnboxError("the explorer was started without an atlas")
        return self.session.atlas

    def _recipe(self, prompt: str, seed: int, steps: int, system: str, edits: Sequence[JSON] = ()) -> Recipe:
        """The recipe that a request asks for, with the system's own settings where it says nothing."""
        base = self.session.defaults(limits.text("system", system, 200) or self.session.default)
        recipe = Recipe.from_json(base.to_json() | {"prompt": prompt, "seed": seed, "edits": edits})
        return replace(recipe, steps=limits.steps(steps)) if steps else recipe

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
