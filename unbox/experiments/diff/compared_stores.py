"""Where the stores of a comparison come from: systems that are drawn, or stores that are there."""

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice

import torch

from activation_store import AlignedRows, Store
from unbox.capture import collect
from unbox.capture.collect import length, numbered
from unbox.capture.collect_settings import CollectSettings, schema_of
from unbox.capture.prompt_list import PromptList
from unbox.errors import UnboxError
from unbox.experiments.diff.diff_settings import ComparedSystem, DiffSettings
from unbox.experiments.diff.joint_rows import kept_steps, rows_of
from unbox.json_types import JSON
from unbox.model_identity import model_identity
from unbox.models import Model
from unbox.prompt import Prompt
from unbox.run_folder import RunFolder, named

#: Loads one of the systems.
Load = Callable[[ComparedSystem], Model]


@dataclass(frozen=True)
class DrawnSystems:
    """Systems that draw the same prompts from the same seeds, into stores of the run's folder."""

    systems: Sequence[ComparedSystem]
    load: Load
    prompts: Sequence[str | Prompt]

    @property
    def titles(self) -> list[str]:
        """Names of the systems."""
        return [system.title for system in self.systems]

    def parts(self, settings: DiffSettings) -> dict[str, JSON]:
        """What the run is of: the systems but for their weights, and the prompts."""
        first = collect_settings(self.systems[0], settings)
        listed = PromptList(numbered(self.prompts, None, first), settings.seed)
        prompts = named(f"{len(listed):,} prompts", listed.digest)
        told = {f"system {system.title}": _told(system) for system in self.systems}
        return {"models": self.titles, **told, "prompts": prompts}

    def stores(
        self, folder: RunFolder, parts: Mapping[str, JSON], settings: DiffSettings, progress: bool
    ) -> dict[str, Store]:
        """System -> its store, completed. A model is given back before the next one is loaded, and the folder
        claimed for it, and for `parts`, once it is there: so a mistyped one can be typed again.

        Raises UnboxError where crosscoders are asked for and systems keep different numbers of steps."""
        found, counts = dict[str, Store](), dict[str, int]()
        prompts = {"prompts": self.parts(settings)["prompts"]}
        for system in self.systems:
            model, title, own = self.load(system), system.title, collect_settings(system, settings)
            counts[title] = len(schema_of(model, own).steps)
            if settings.crosscoders:
                check_steps(counts)
            about = {f"model {title}": named(model.system.name, model_identity(model.fingerprint))}
            folder.claim({**parts, **prompts, f"system {title}": _told(system), **about})
            place = folder.path / "stores" / title
            found[title] = collect(model, self.prompts, place, **vars(own), progress=progress)
            del model
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return found


@dataclass(frozen=True)
class GivenStores:
    """Stores of the same prompts and seeds, by name: those that several GPUs collected, say."""

    found: Mapping[str, Store]

    @property
    def titles(self) -> list[str]:
        """Names of the stores."""
        return list(self.found)

    def parts(self, settings: DiffSettings) -> dict[str, JSON]:
        """What the run is of: the stores, by what they hold."""
        return {"stores": {name: store.identity for name, store in self.found.items()}}

    def stores(
        self, folder: RunFolder, parts: Mapping[str, JSON], settings: DiffSettings, progress: bool
    ) -> dict[str, Store]:
        """The stores. Raises StoreError where their images are of other prompts or seeds, or a block is not
        in one; UnboxError where crosscoders are asked for and they keep different numbers of steps."""
        for block in settings.blocks:
            first, *others = rows_of(self.found, block, None, settings.keep_steps).values()
            for rows in others:
                AlignedRows((first.filter(steps=first.steps[0]), rows.filter(steps=rows.steps[0])), True)
            if settings.crosscoders:
                kept = {n: kept_steps(s, block, settings.keep_steps) for n, s in self.found.items()}
                check_steps({name: len(steps) for name, steps in kept.items()})
        return dict(self.found)


def collect_settings(system: ComparedSystem, settings: DiffSettings) -> CollectSettings:
    """How a system's images are drawn and recorded: those with the caption alone."""
    names = {each.name for each in fields(CollectSettings)} & {each.name for each in fields(DiffSettings)}
    given = {name: getattr(settings, name) for name in names}
    given |= {n: v for n in ("steps", "guidance") if (v := getattr(system, n)) is not None}
    return CollectSettings(**given, branches=("cond",))


def check_steps(counts: Mapping[str, int]) -> None:
    """Raise UnboxError where systems keep different numbers of steps."""
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UnboxError(
            f"a crosscoder takes as many steps of each system; there are of {told}: choose some of all "
            "with --keep-steps, or give the systems as many steps"
        )


def listed_prompts(prompts: Iterable[Prompt], limit: int | None) -> list[Prompt]:
    """The prompts of a run. Raises UnboxError where they have no end and no limit."""
    if length(prompts, limit) is None:
        raise UnboxError("say how many prompts there are to be with --limit: these have no end")
    return list(islice(prompts, limit))


def _told(system: ComparedSystem) -> dict[str, JSON]:
    """What of a system is not as its model has it. Weights that are put over it are known by the model."""
    usual, apart = vars(ComparedSystem(model="x")), ("name", "lora", "unet")
    return {k: str(v) for k, v in vars(system).items() if v != usual[k] and k not in apart}
