"""What the explorer opens: a model, its SAEs, its atlas; from folders, or made once for the bundled model."""

import os
from pathlib import Path

from unbox.atlas import Atlas
from unbox.errors import UnboxError
from unbox.experiments.feature_strengths import read_strengths
from unbox.explorer.figure_files import read_bench_results, read_comparison, read_figures
from unbox.explorer.image_recipe import OpenedModel
from unbox.explorer.session import LARGEST, ExplorerSession
from unbox.model_mismatch import MismatchPolicy, check_same_model, check_same_saes
from unbox.models import SYSTEMS, Model
from unbox.recipes.bundled_features import make_features
from unbox.recipes.factor_brushes import STRENGTHS, load_brushes
from unbox.sae import load_saes
from unbox.sae.model import SAE

#: SAEs and atlas that the package brings, and the system that they are of.
BUNDLED, SYSTEM = Path(__file__).parent / "bundled", "shapes-turbo"


def open_session(
    model: Model, saes: Path | None = None, atlas: Path | None = None, figures: Path | None = None,
    bench: Path | None = None, diff: Path | None = None, *, model_mismatch: MismatchPolicy = "warn",
    opened: OpenedModel | None = None, largest: float = LARGEST,
) -> ExplorerSession:  # fmt: skip
    """A session of a loaded model, shown under its system's name, and of what the folders hold.

    The bundled model without SAEs gets those of the package, whose labels are kept in the user's cache; any
    other Shapes model gets its own, made once, in minutes; another model is shown without. Shapes models can
    be compared with the other bundled ones. `model_mismatch`: what is done where the SAEs are of another
    model, or the atlas of other SAEs (`check_same_model`). `opened`: how the model was opened, where by more
    than its system's name. `largest`: pixels of a picture at most, in those of its system's own size.
    """
    name, label_copy, strengths = model.system.name, None, None
    brushes: dict[str, SAE] = {}
    shapes = name.startswith("shapes")
    if saes is None and shapes:
        bundled = name == SYSTEM and (BUNDLED / "saes").is_dir()
        folder = BUNDLED if bundled else make_features(model, cache() / name)
        saes, label_copy = folder / "saes", None if atlas else cache() / "labels"
        atlas = atlas or folder / "atlas"
        brushes = load_brushes(folder, model.device)
        strengths = read_strengths(folder / STRENGTHS) if (folder / STRENGTHS).is_file() else None
    loaded = {} if saes is None else load_saes(saes, model.device)
    known = None if atlas is None else Atlas.open(atlas, label_copy)
    check_same_model(loaded, model=model, policy=model_mismatch)
    if known is not None:
        check_same_saes(known.identities, loaded, f"the atlas {atlas}", model_mismatch)
    return ExplorerSession(
        model,
        loaded,
        known,
        [each for each in SYSTEMS if shapes and each.startswith("shapes") and ready(each)],
        figures=None if figures is None else read_figures(figures),
        bench=None if bench is None else read_bench_results(bench),
        comparison=None if diff is None else read_comparison(diff),
        folder=saes,
        opened=opened,
        largest=largest,
        strengths=strengths,
        brushes=brushes,
    )


def ready(system: str) -> bool:
    """Whether a bundled system's weights are here."""
    from unbox.models.hub import base_folder

    try:
        return base_folder(SYSTEMS[system].base or "", False).is_dir()
    except UnboxError:
        return False


def cache() -> Path:
    """The user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unbox"
