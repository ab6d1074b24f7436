"""What the pages work with: models, SAEs and an atlas, and the few things that are done with them."""

import re
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unbox.atlas import Atlas
from unbox.atlas.dictionary_map import DictionaryMap
from unbox.capture import record
from unbox.edit import Edits, Feature
from unbox.edits import EditHook, Guard, bind, guarded, random_control
from unbox.errors import FieldError, UnboxError
from unbox.experiments.critics import Critic, critics
from unbox.experiments.feature_strengths import FeatureStrengths, StrengthTrials
from unbox.explorer.bounded_cache import BoundedCache
from unbox.explorer.device_runs import ProgressHook
from unbox.explorer.figure_files import Comparison
from unbox.explorer.image_recipe import OpenedModel, Recipe
from unbox.explorer.limits import Line
from unbox.explorer.live_sampler import LiveSampler
from unbox.explorer.photo_start import Photos
from unbox.explorer.recorded_image import RecordedImage
from unbox.json_types import JSON
from unbox.models import Model, load
from unbox.models.clock import clock
from unbox.models.hooks import as_hook
from unbox.prompt import Prompt
from unbox.sae.direction_set import as_direction, plain_direction
from unbox.sae.model import SAE
from unbox.validation import checked

#: Models kept in memory.
MODELS = 2
#: A picture's pixels at most, in those of its system's own size: others wait while it is made.
LARGEST = 4.0
#: Bytes of pictures, and of what fired while they were made, that are kept to be shown again.
PICTURES_BYTES, RECORDED_BYTES = 256 << 20, 256 << 20
#: Recipes that are drawn live at a time; seconds of a picture below which it is made again by itself.
LIVE, QUICK = 4, 1.5
#: Pictures of a trial that are drawn at a time.
AT_ONCE = 8


class ExplorerSession:
    """Models by system, loaded when first asked for; SAEs by name; the atlas, where there is one.

    There is one for an app, shared by all its visitors. `model` is loaded already and shown under its
    system's name, the default; `systems` are the names of others that may be asked for. `figures` of
    `unbox evaluate`, `bench` of `unbox bench shapes`, `comparison` of `unbox diff`; `folder` is where the
    SAEs are and `opened` how the model was opened, for commands to copy; `largest`: pixels of a picture at
    most, in those of its system's own size; `strengths`: calibrated ones; `brushes`: sets of directions to
    paint with, by name, beside the SAEs, which no page of these counts. One thread at a time generates;
    others wait. What was made is kept, and made once.
    """

    def __init__(
        self, model: Model, saes: Mapping[str, SAE] | None = None, atlas: Atlas | None = None,
        systems: Sequence[str] = (), *, figures: Mapping[str, Any] | None = None,
        bench: Mapping[str, Any] | None = None, comparison: Comparison | None = None,
        folder: Path | None = None, opened: OpenedModel | None = None, largest: float = LARGEST,
        strengths: FeatureStrengths | None = None, brushes: Mapping[str, SAE] | None = None,
    ) -> None:  # fmt: skip
        self.largest = largest
        self._pictures: BoundedCache[Recipe, Image.Image] = BoundedCache(PICTURES_BYTES)
        self._recorded: BoundedCache[Recipe, RecordedImage] = BoundedCache(RECORDED_BYTES)
        self.photos = Photos()
        self._live: BoundedCache[Recipe, LiveSampler] = BoundedCache(LIVE)
        self._seconds: dict[tuple[str, int, int, int, float], float] = {}
        self.saes, self.atlas = dict(saes or {}), atlas
        self.brushes = dict(brushes or {})
        self.strengths = {} if strengths is None else strengths.known
        #: Strangeness to the critic that 5 % of unedited pictures pass, where it is known.
        self.usual_strangeness = None if strengths is None else strengths.usual
        self._trials: StrengthTrials | None = None
        self.maps: dict[str, DictionaryMap] = {}
        self.figures, self.bench, self.comparison = dict(figures or {}), dict(bench or {}), comparison
        self.folder = "saes/" if folder is None else str(folder)
        self.default = model.system.name
        self._opened = opened or OpenedModel.named(self.default)
        self.systems = tuple(dict.fromkeys([self.default, *systems]))
        self._models: OrderedDict[str, Model] = OrderedDict({self.default: model})
        self._weights: dict[str, np.ndarray] = {}
        self._check()

    def _check(self) -> None:
        model = self._models[self.default]
        for name, sae in self.dictionaries.items():
            width = model.block(sae.block).in_channels
            if width != sae.width:
                raise UnboxError(f"SAE {name} reads width {sae.width}; {sae.block} of {self.default} has "
                                 f"{width}: it is of another model")  # fmt: skip
        for each in () if self.atlas is None else self.atlas.saes:
            if each.name in self.saes and self.saes[each.name].latents != each.latents:
                raise UnboxError(f"the atlas knows {each.latents} features of {each.name}, its SAE has "
                                 f"{self.saes[each.name].latents}: build the atlas again")  # fmt: skip

    def model(self, system: str) -> Model:
        """The model of a system; the one used longest ago makes room. Raises UnboxError for unknown names."""
        if system not in self.systems:
            raise UnboxError(f"there is no system '{system[:80]}' here; there are {', '.join(self.systems)}")
        if system not in self._models:
            first = self._models[self.default]  # it stays: it was opened with its user's options
            others = [name for name in self._models if name != self.default]
            if len(self._models) >= MODELS and others:
                del self._models[others[0]]
            self._models[system] = load(system, first.dtype, first.device, download=False)
        self._models.move_to_end(system)
        return self._models[system]

    def opened_as(self, system: str) -> OpenedModel:
        """How the model of a system is opened again."""
        return self._opened if system == self.default else OpenedModel.named(system)

    def known(self, recipe: Recipe) -> Recipe:
        """The recipe, of a system that is here. Raises UnboxError for one of another system."""
        if recipe.system not in self.systems:
            systems = ", ".join(self.systems)
            raise UnboxError(f"this picture is of {recipe.system}; here there are {systems}")
        return recipe

    def completed(self, value: JSON, door: str = "recipe") -> Recipe:
        """A recipe from JSON that may be anybody's, with its system's own steps, guidance and size where it
        says nothing. Raises FieldError naming what is wrong with it."""
        if isinstance(value, Mapping) and value.get("system") in self.systems:
            own = self.defaults(str(value["system"])).to_json()
            value = {name: own[name] for name in ("steps", "guidance", "height", "width")} | dict(value)
        return Recipe.from_json(value, door)

    def defaults(self, system: str) -> Recipe:
        """A recipe with the system's own steps, guidance and size, and an empty prompt."""
        model = self.model(system)
        return Recipe(system, "", 0, model.system.steps, model.system.guidance, model.size, model.size)

    @property
    def dictionaries(self) -> dict[str, SAE]:
        """All whose features and directions can be named: the SAEs and the brushes."""
        return self.saes | self.brushes

    def fitting(self, system: str) -> dict[str, SAE]:
        """The SAEs whose blocks a system has, in their width."""
        return self._fitting(system, self.saes)

    def editable(self, system: str) -> dict[str, SAE]:
        """What edits of a system can be of: the SAEs and brushes whose blocks it has, in their width."""
        return self._fitting(system, self.dictionaries)

    def _fitting(self, system: str, among: Mapping[str, SAE]) -> dict[str, SAE]:
        model = self.model(system)
        return {
            name: sae
            for name, sae in among.items()
            if sae.block in model.blocks and model.block(sae.block).in_channels == sae.width
        }

    @property
    def example_name(self) -> str:
        """What the name of a feature looks like here."""
        return f"{next(iter(self.saes), 'up.0.1')}/0"

    def feature(self, name: str) -> Feature:
        """A feature by its name, `up.0.1/17`. Raises FieldError, naming what exists."""
        sae, _, index = checked(Line, "feature", name).rpartition("/")
        among = self.dictionaries
        if sae not in among or not re.fullmatch("[0-9]{1,11}", index):
            rule = f"should be like {self.example_name}; the SAEs are {', '.join(among) or 'none'}"
            raise FieldError("", "feature", name, rule)
        feature = among[sae].feature(int(index))
        return replace(feature, source=sae if sae != feature.block else None)

    def has_feature(self, name: str) -> bool:
        """Whether a feature of this name is here."""
        sae, _, index = name.rpartition("/")
        of = self.dictionaries.get(sae)
        return of is not None and re.fullmatch("[0-9]{1,11}", index) is not None and int(index) < of.latents

    def rarity(self, sae: str) -> np.ndarray | None:
        """(n,) log(1 / density) over the mean activation where active: how telling it is that a feature
        fires. 0 for features that never fired in training, of which nothing is known. None without
        statistics."""
        if sae not in self._weights:
            stats = self.saes[sae].stats
            if stats is None:
                return None
            density, mean = stats.density.numpy(), stats.mean_active.numpy()
            known = (density > 0) & (mean > 0)
            weight = -np.log(np.where(known, density, 1)) / np.where(known, mean, 1)
            self._weights[sae] = weight.astype(np.float32)
        return self._weights[sae]

    def floor(self, sae: str) -> np.ndarray | float:
        """(n,) the change of a feature's mean over a picture below which there is none: a hundredth of its
        mean where active, and of the block's median feature's at least. 0 without statistics."""
        stats = self.saes[sae].stats
        if stats is None:
            return 0.0
        mean = stats.mean_active.numpy()
        usual = float(np.median(mean[mean > 0])) if (mean > 0).any() else 0.0
        return 0.01 * np.maximum(mean, usual)

    def generate(self, recipes: Sequence[Recipe]) -> list[Image.Image]:
        """A picture for each recipe; all are of one system, steps, guidance, size and negative prompt. Those
        at hand are not made again.

        Raises FieldError for a picture of more than `largest` times the system's own pixels.
        """
        wanted = [recipe.acting for recipe in recipes]
        at_hand = {recipe: self._pictures.get(recipe) for recipe in wanted}
        found = {recipe: image for recipe, image in at_hand.items() if image is not None}
        if missing := [recipe for recipe in at_hand if recipe not in found]:
            found |= zip(missing, self._generate(missing), strict=True)
            for recipe in missing:
                self._pictures.put(recipe, found[recipe], 3 * recipe.width * recipe.height)
        return [found[recipe] for recipe in wanted]

    def has_pictures(self, recipes: Sequence[Recipe]) -> bool:
        """Whether `generate` need make none of them."""
        return all(recipe.acting in self._pictures for recipe in recipes)

    def _generate(self, recipes: Sequence[Recipe]) -> list[Image.Image]:
        first, began = recipes[0], time.monotonic()
        self._check_size(first)
        images = self._sampled(recipes)
        self._seconds[_shape(first)] = (time.monotonic() - began) / len(images)
        return images

    def _check_size(self, recipe: Recipe) -> None:
        own = self.model(recipe.system).size
        if recipe.height * recipe.width > self.largest * own * own:
            rule = f"should be at most {self.largest:g} times the {own} x {own} pixels of {recipe.system}"
            raise FieldError("picture", "height x width", f"{recipe.height} x {recipe.width}", rule)

    def _sampled(self, recipes: Sequence[Recipe]) -> list[Image.Image]:
        first = recipes[0]
        if any(recipe.photo for recipe in recipes):
            return [
                self._drawn(recipe) if recipe.photo else self._generate([recipe])[0] for recipe in recipes
            ]
        return self.model(first.system).generate(
            [recipe.prompt for recipe in recipes], seeds=[recipe.seed for recipe in recipes],
            edits=[self.edits_of(recipe) for recipe in recipes], hooks=[ProgressHook(first.steps)],
            steps=first.steps, guidance=first.guidance, height=first.height, width=first.width,
            negative_prompt=first.negative_prompt or None,
        )  # fmt: skip

    def _drawn(self, recipe: Recipe) -> Image.Image:
        """The recipe's photo drawn again, with its edits."""
        model, edits = self.model(recipe.system), self.edits_of(recipe)
        inversion = self.photos.inversion(model, recipe)
        with ExitStack() as stack:
            stack.enter_context(clock(model, "drawing a photo"))
            stack.enter_context(ProgressHook(recipe.steps).attach(model, None))
            if edits is not None:
                stack.enter_context(as_hook(edits).attach(model, None))
            return inversion.draw()

    def live_sampler(self, recipe: Recipe) -> LiveSampler:
        """What draws a recipe under changing edits. Raises UnboxError for one that is not drawn so."""
        found, model = self._live.get(recipe.plain), self.model(recipe.system)
        if found is None or found.model is not model:
            self._check_size(recipe)
            found = LiveSampler(model, recipe, hooks=[ProgressHook(recipe.steps)])
            self._live.put(recipe.plain, found, 1)
        return found

    def quick(self, recipe: Recipe) -> bool:
        """Whether a picture like this one was last made in less than `QUICK` seconds."""
        return self._seconds.get(_shape(recipe), QUICK) < QUICK

    def fidelity(self, recipe: Recipe) -> dict[str, float] | None:
        """How faithfully a recipe's photo is drawn again, in dB (`Inversion.fidelity`); None without one."""
        return self.photos.inversion(self.model(recipe.system), recipe).fidelity if recipe.photo else None

    def edits_of(self, recipe: Recipe) -> Edits | EditHook | None:
        """The recipe's edits with their SAEs, under a guard if it wants one; None without edits."""
        if not len(recipe.active):
            return None
        edits = bind(recipe.active, self.editable(recipe.system))
        return guarded(edits, Guard(self.norms_of(recipe))) if recipe.guard else edits

    def norms_of(self, recipe: Recipe) -> dict[str, tuple[float, float]]:
        """The guard's limits for a recipe: block -> norms that an update may have, up to the mean update's
        norm and three deviations more; none where it has no edit that is on."""
        editable, limits = self.editable(recipe.system), {}
        for edit in bind(recipe.active, editable):
            sae = edit.sae or next((s for s in editable.values() if s.block == edit.block), None)
            if isinstance(sae, SAE):
                limits[edit.block] = (0.0, float(sae.b_pre.norm()) + 3 * sae.update_std)
        return limits

    def record(self, recipe: Recipe) -> RecordedImage:
        """Make the picture and see which features of every SAE that fits fire, at every step and place.

        What fires is read before a block's own edits and after those of earlier blocks.
        """
        recorded = self.at_hand(recipe) or self._record(recipe)
        size = 6 * sum(codes.size for codes in recorded.values.values())
        self._recorded.put(recipe.acting, recorded, size)
        self._pictures.put(recipe.acting, recorded.image, 3 * recipe.width * recipe.height)
        return replace(recorded, recipe=recipe)

    def at_hand(self, recipe: Recipe) -> RecordedImage | None:
        """What `record` answers, where it need not be made again."""
        found = self._recorded.get(recipe.acting)
        return None if found is None else replace(found, recipe=recipe)

    def _record(self, recipe: Recipe) -> RecordedImage:
        model, fitting = self.model(recipe.system), self.fitting(recipe.system)
        if not fitting:
            return RecordedImage(recipe, self.generate([recipe])[0], (), (), {}, {})
        with record(model, blocks=tuple(dict.fromkeys(sae.block for sae in fitting.values()))) as tape:
            (image,) = self._generate([recipe])
        values, indices = {}, {}
        for name, sae in fitting.items():
            codes = sae.encode(tape[sae.block][0].to(sae.device))
            values[name] = codes.values.half().cpu().numpy()
            indices[name] = codes.indices.int().cpu().numpy()
        return RecordedImage(recipe, image, tape.steps, tape.branches, values, indices)

    @cached_property
    def critic(self) -> Critic | None:
        """Who knows the pictures of the default system's world."""
        return next((each for name, each in critics().items() if self.default.startswith(name)), None)

    def trials(self) -> StrengthTrials:
        """Pictures of the critic's world under the default system, on which strengths and effects are
        measured. Raises UnboxError where no critic knows it."""
        if self.critic is None:
            raise UnboxError(f"no critic knows the pictures of {self.default}: nothing is measured in them")
        if self._trials is None:
            self._trials = StrengthTrials(self._draw_trials, self.critic)
            self.usual_strangeness = self._trials.usual
        return self._trials

    def _draw_trials(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], edits: Sequence[Edits] | None
    ) -> list[Image.Image]:
        plain, found = self.defaults(self.default), []
        each = [Edits()] * len(prompts) if edits is None else edits
        recipes = [
            replace(plain, prompt=prompt.text, seed=seed, edits=own)
            for prompt, seed, own in zip(prompts, seeds, each, strict=True)
        ]
        for start in range(0, len(recipes), AT_ONCE):
            found += self.generate(recipes[start : start + AT_ONCE])
        return found

    def without_brushes(self, recipe: Recipe) -> Recipe:
        """The recipe for who has the SAEs alone: edits of brushes are edits of their vectors."""
        saes = self.editable(recipe.system)
        edits = (plain_direction(bind(edit, saes)[0]) if edit.source in self.brushes else edit
                 for edit in recipe.edits)  # fmt: skip
        return replace(recipe, edits=Edits(tuple(edits)))

    def random_control(self, recipe: Recipe, seed: int = 0) -> Recipe:
        """The same picture with a random control of the edits that are on: what any features do. `seed`: of
        the draw, which the recipe keeps."""
        edits = Edits(tuple(map(as_direction, bind(recipe.active, self.editable(recipe.system)))))
        return replace(recipe, edits=random_control(edits, (seed, recipe.seed)), off=frozenset(), draw=seed)


def _shape(recipe: Recipe) -> tuple[str, int, int, int, float]:
    """What the time of a picture depends on."""
    return recipe.system, recipe.steps, recipe.height, recipe.width, recipe.guidance
