"""What the pages work with: models, SAEs and an atlas, and the few things that are done with them."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unbox.atlas import Atlas
from unbox.capture import record
from unbox.edit import Edits, Feature
from unbox.edits import Guard, bind, guarded, random_control
from unbox.errors import UnboxError
from unbox.explorer.image_recipe import Recipe
from unbox.models import load
from unbox.sae.model import SAE

#: Models kept in memory.
MODELS = 2


class Cancelled(Exception):
    """The run was stopped by its user."""


@dataclass(frozen=True, eq=False)
class RecordedImage:
    """A picture, and the features that fired while it was made."""

    recipe: Recipe
    image: Image.Image
    steps: tuple[int, ...]
    branches: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    """SAE -> (steps, branches, y, x, k) float16."""
    indices: Mapping[str, np.ndarray]
    """SAE -> the same shape, int32."""

    def heat(self, sae: str, index: int, step: int | None = None) -> np.ndarray:
        """(y, x) activation of a feature, the largest over branches (and steps, where none is named)."""
        values, indices = self._of(sae, step)
        return np.where(indices == index, values, 0).max((0, 1, 4)).astype(np.float32)

    def strongest(
        self, sae: str, step: int | None, count: int, weight: np.ndarray | None = None
    ) -> list[tuple[int, float]]:
        """Features with the largest activation summed over places, times `weight` (n,) if given."""
        values, indices = self._of(sae, step)
        return _ranked(values, indices, count, weight)

    def at(
        self, sae: str, x: float, y: float, step: int | None, count: int, weight: np.ndarray | None = None
    ) -> list[tuple[int, float]]:
        """Features at a place, given in fractions of the picture."""
        values, indices = self._of(sae, step)
        row = min(int(y * values.shape[2]), values.shape[2] - 1)
        column = min(int(x * values.shape[3]), values.shape[3] - 1)
        return _ranked(values[:, :, row, column], indices[:, :, row, column], count, weight)

    def _of(self, sae: str, step: int | None) -> tuple[np.ndarray, np.ndarray]:
        if sae not in self.values:
            raise UnboxError(f"there is no SAE '{sae}'; there are {', '.join(self.values)}")
        if step is None:
            return self.values[sae], self.indices[sae]
        if step not in self.steps:
            raise UnboxError(f"this run has no step {step}; it has {', '.join(map(str, self.steps))}")
        part = slice(self.steps.index(step), self.steps.index(step) + 1)
        return self.values[sae][part], self.indices[sae][part]


def _ranked(
    values: np.ndarray, indices: np.ndarray, count: int, weight: np.ndarray | None
) -> list[tuple[int, float]]:
    places = max(1, values[..., 0].size)
    total = np.bincount(indices.ravel(), values.ravel().astype(np.float64)) / places
    score = total if weight is None else total * weight[: len(total)]
    order = np.argsort(-score, kind="stable")[:count]
    return [(int(i), float(total[i])) for i in order if total[i] > 0]


class ProgressHook:
    """An instrument that tells how far a run is, and stops it when asked to."""

    def __init__(self, stop: threading.Event, progress: Callable[[int], None] | None = None) -> None:
        self.stop, self.progress = stop, progress

    @contextmanager
    def attach(self, model: Any, rows: Sequence[int] | None) -> Iterator[None]:
        done = 0

        def before(*_: Any) -> None:
            nonlocal done
            if self.stop.is_set():
                raise Cancelled
            if self.progress is not None:
                self.progress(done)
            done += 1

        handle = model.unet.register_forward_pre_hook(before)
        try:
            yield
        finally:
            handle.remove()


class ExplorerSession:
    """Models by system, loaded when first asked for; SAEs by name; the atlas, where there is one.

    `systems` are the names (or folders) that may be asked for, the first of them the default; `model` is that
    one, loaded. `figures` of `unbox evaluate`, `bench` of `unbox bench shapes`; `folder` is where the SAEs
    are, for commands to copy. Only one thread at a time may generate.
    """

    def __init__(
        self,
        model: Any,
        saes: Mapping[str, SAE] | None = None,
        atlas: Atlas | None = None,
        systems: Sequence[str] = (),
        *,
        figures: Mapping[str, Any] | None = None,
        bench: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.saes, self.atlas = dict(saes or {}), atlas
        self.figures, self.bench = dict(figures or {}), dict(bench or {})
        self.folder = "saes/" if folder is None else str(folder)
        self.default = model.system.name
        self.systems = tuple(dict.fromkeys([self.default, *systems]))
        self._models: OrderedDict[str, Any] = OrderedDict({self.default: model})
        self._weights: dict[str, np.ndarray] = {}
        self._check()

    def _check(self) -> None:
        model = self._models[self.default]
        for name, sae in self.saes.items():
            width = model.block(sae.block).in_channels
            if width != sae.width:
                raise UnboxError(
                    f"SAE {name} reads width {sae.width}; {sae.block} of {self.default} has {width}: "
                    "it is of another model"
                )
        names = {} if self.atlas is None else {each.name: each.latents for each in self.atlas.saes}
        for name, latents in names.items():
            if name in self.saes and self.saes[name].latents != latents:
                raise UnboxError(f"the atlas knows {latents} features of {name}, its SAE has "
                                 f"{self.saes[name].latents}: build the atlas again")  # fmt: skip

    def model(self, system: str) -> Any:
        """The model of a system; the one used longest ago makes room. Raises UnboxError for unknown names."""
        if system not in self.systems:
            raise UnboxError(f"there is no system '{system[:80]}' here; there are {', '.join(self.systems)}")
        if system not in self._models:
            self._models[system] = load(system, download=False)
            if len(self._models) > MODELS:
                self._models.popitem(last=False)
        self._models.move_to_end(system)
        return self._models[system]

    def defaults(self, system: str) -> Recipe:
        """A recipe with the system's own steps, guidance and size, and an empty prompt."""
        model = self.model(system)
        return Recipe(system, "", 0, model.system.steps, model.system.guidance, model.size, model.size)

    def fitting(self, system: str) -> dict[str, SAE]:
        """The SAEs whose blocks a system has, in their width."""
        model = self.model(system)
        return {
            name: sae
            for name, sae in self.saes.items()
            if sae.block in model.blocks and model.block(sae.block).in_channels == sae.width
        }

    def feature(self, name: str) -> Feature:
        """A feature by its name, `up.0.1/17`. Raises UnboxError, naming what exists."""
        sae, _, index = name.strip().rpartition("/")
        if sae not in self.saes:
            raise UnboxError(
                f"'{name[:80]}' is not a feature here; names are like "
                f"{next(iter(self.saes), 'up.0.1')}/0, the SAEs are {', '.join(self.saes)}"
            )
        if not (index.isascii() and index.isdigit() and len(index) < 12):
            raise UnboxError(f"'{index[:20]}' is not the index of a feature")
        feature = self.saes[sae].feature(int(index))
        return replace(feature, source=sae if sae != feature.block else None)

    def rarity(self, sae: str) -> np.ndarray | None:
        """(n,) log(1 / density) over the atlas's mean activation: how telling it is that a feature fires."""
        if sae not in self._weights:
            stats = self.saes[sae].stats
            if stats is None:
                return None
            density = np.maximum(stats.density.numpy(), 1e-6)
            self._weights[sae] = -np.log(density) / np.maximum(stats.mean_active.numpy(), 1e-6)
        return self._weights[sae]

    def generate(
        self, recipes: Sequence[Recipe], stop: threading.Event | None = None, progress: Any = None
    ) -> list[Image.Image]:
        """A picture for each recipe; all are of one system, steps, guidance and size."""
        first = recipes[0]
        model = self.model(first.system)
        options: dict[str, Any] = {"negative_prompt": first.negative_prompt} if first.negative_prompt else {}
        return model.generate(
            [recipe.prompt for recipe in recipes],
            seeds=[recipe.seed for recipe in recipes],
            edits=[self.instrument(recipe) for recipe in recipes],
            instruments=[ProgressHook(stop or threading.Event(), progress)],
            steps=first.steps, guidance=first.guidance, height=first.height, width=first.width,
            **options,
        )  # fmt: skip

    def instrument(self, recipe: Recipe) -> Any:
        """The recipe's edits with their SAEs, under a guard if it wants one; None without edits."""
        if not len(recipe.active):
            return None
        fitting = self.fitting(recipe.system)
        edits = bind(recipe.active, fitting)
        if not recipe.guard:
            return edits
        return guarded(edits, Guard(self.norm_limits(edits, fitting)))

    def norm_limits(self, edits: Edits, saes: Mapping[str, SAE]) -> dict[str, tuple[float, float]]:
        """Block -> norms that an update may have: up to the mean update's norm and three deviations more."""
        found = {}
        for edit in edits:
            sae = edit.sae or next((s for s in saes.values() if s.block == edit.block), None)
            if isinstance(sae, SAE):
                found[edit.block] = (0.0, float(sae.b_pre.norm()) + 3 * sae.update_std)
        return found

    def norms_of(self, recipe: Recipe) -> dict[str, tuple[float, float]]:
        """The guard's limits for a recipe; none where it has no edit that is on."""
        fitting = self.fitting(recipe.system)
        return self.norm_limits(bind(recipe.active, fitting), fitting) if len(recipe.active) else {}

    def record(
        self, recipe: Recipe, stop: threading.Event | None = None, progress: Any = None
    ) -> RecordedImage:
        """Make the picture and see which features of every SAE that fits fire, at every step and place.

        What fires is read before a block's own edits and after those of earlier blocks.
        """
        model, fitting = self.model(recipe.system), self.fitting(recipe.system)
        if not fitting:
            return RecordedImage(recipe, self.generate([recipe], stop, progress)[0], (), (), {}, {})
        with record(model, blocks=tuple(dict.fromkeys(sae.block for sae in fitting.values()))) as tape:
            (image,) = self.generate([recipe], stop, progress)
        values, indices = {}, {}
        for name, sae in fitting.items():
            codes = sae.encode(tape[sae.block][0].to(sae.device))
            values[name] = codes.values.half().cpu().numpy()
            indices[name] = codes.indices.int().cpu().numpy()
        return RecordedImage(recipe, image, tape.steps, tape.branches, values, indices)

    def random_control(self, recipe: Recipe, seed: int = 0) -> Recipe:
        """The same picture with the random control of the edits that are on: what any features do."""
        edits = bind(recipe.active, self.fitting(recipe.system))
        return replace(recipe, edits=random_control(edits, (seed, recipe.seed)), off=frozenset())
