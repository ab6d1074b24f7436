"""Finding weights: a bundled folder, a local one, the Hub's cache, and only then the network."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub import constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from unbox.errors import UnboxError
from unbox.models.system_table import SYSTEMS
from unbox.models.systems import BUNDLED, PIPELINE_FILE, Part, System
from unbox.text_files import read_json_object

#: Parts of a pipeline that have weights.
WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2")
#: Half precision without the single files and other formats that the rows' repositories hold beside it.
ONLY_NEEDED = '--include "*.json" --include "*.txt" --include "*/*.fp16.safetensors"'


def bundled_folder(reference: str) -> Path:
    """Folder of a bundled model, `bundled:NAME`."""
    return Path(str(files("unbox.shapes"))) / "weights" / reference.removeprefix(BUNDLED)


def base_folder(reference: str, download: bool = True) -> Path:
    """Local folder of a pipeline: bundled, or a Hub id from the cache or (if `download`) the network."""
    if reference.startswith(BUNDLED):
        folder = bundled_folder(reference)
        if not whole(folder):
            raise UnboxError(
                f"the bundled model {folder.name} is not in this installation (looked in {folder}); "
                f"install the whole repository, or train it: unbox recipe {folder.name}. {ready_line()}"
            )
        return folder

    def fetch(variant: str | None) -> Path:
        with quiet():
            return Path(DiffusionPipeline.download(reference, variant=variant, use_safetensors=True))

    in_turn = partial(fetch, "fp16"), partial(fetch, None)
    known = any(reference in (system.base, system.refiner) for system in SYSTEMS.values())
    return _fetch(reference, PIPELINE_FILE, ONLY_NEEDED * known, in_turn, download)


def part_file(part: Part, download: bool = True) -> Path:
    """Local path of a part: a file, or for a repository without a named file its folder."""

    def fetch() -> Path:
        if part.file:
            return Path(hf_hub_download(part.repo, part.file))
        return Path(snapshot_download(part.repo, allow_patterns=["*.safetensors", "*.json"]))

    return _fetch(part.repo, part.file, part.file, (fetch,), download)


def _fetch(repo: str, file: str, wanted: str, fetches: Sequence[Callable[[], Path]], download: bool) -> Path:
    """Look in the cache, then fetch in one way or the next. `wanted`: what to tell `hf download`."""
    found = _cached(repo, file)
    if found is not None and whole(found):
        return found
    online = download and not constants.HF_HUB_OFFLINE
    reason: Exception | None = None
    for fetch in fetches if online else ():
        try:
            return fetch()
        except (OSError, ValueError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            reason = error
    what = repo if file in ("", PIPELINE_FILE) else f"{repo}/{file}"
    command = f"hf download {repo} {wanted}".strip()
    raise UnboxError(
        f"no weights: looked for {what} in the cache at {constants.HF_HUB_CACHE}"
        + (f", where {found} is only a piece of it" if found else "")
        + (", and on the Hub, which did not give it" if online else " (offline)")
        + f". Fetch it where there is a network with `{command}` and copy the cache here, or give a local "
        f"diffusers folder. {ready_line()}"
    ) from reason


def _cached(repo: str, file: str) -> Path | None:
    """Place in the Hub's cache: of a file, of the pipeline that `model_index.json` makes, of a folder ("").

    Reads the disk alone: the Hub's own functions may ask the network even for local files.
    """
    if not file:
        folders = (Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}").glob("snapshots/*")
        return max(folders, key=lambda folder: folder.stat().st_mtime, default=None)
    try:
        found = try_to_load_from_cache(repo, file)
    except HFValidationError:
        return None
    if not isinstance(found, str):
        return None
    return Path(found).parent if file == PIPELINE_FILE else Path(found)


def whole(path: Path) -> bool:
    """Whether a file is there, or a folder has weights: a pipeline's, for each part that its index names."""
    index = path / PIPELINE_FILE
    if not index.is_file():
        return path.is_file() or any(path.glob("*.safetensors"))
    parts = read_json_object(index)
    named = [name for name in WEIGHTED if isinstance(part := parts.get(name), list) and part and part[0]]
    return bool(named) and all(any((path / name).glob("*.safetensors")) for name in named)


def missing(system: System) -> list[tuple[str, str, int]]:
    """What of `system.needs` is not in the Hub's cache (nothing is fetched)."""
    found = {need: _cached(*need[:2]) for need in system.needs}
    return [need for need, place in found.items() if place is None or not whole(place)]


def present(system: System) -> bool:
    """Whether everything the system needs is on this machine (nothing is fetched)."""
    if system.base is None:
        return False
    if system.base.startswith(BUNDLED):
        return whole(bundled_folder(system.base))
    return not missing(system)


def ready_line() -> str:
    """One sentence: the systems that can run here now."""
    ready = [name for name, system in SYSTEMS.items() if present(system)]
    return f"Ready here: {', '.join(ready)}." if ready else "No system is ready here; see `unbox models`."


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the loading bars and advice of diffusers and transformers, and put them back."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    modules = (diffusers_logging, transformers_logging)
    levels = [module.get_verbosity() for module in modules]
    bars = [module.is_progress_bar_enabled() for module in modules]
    for module in modules:
        module.set_verbosity_error()
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module, level, bar in zip(modules, levels, bars, strict=True):
            module.set_verbosity(level)
            if bar:
                module.enable_progress_bar()
