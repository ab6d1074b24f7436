"""Finding weights: a bundled folder, a local one, the Hub's cache, and only then the network."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from unbox.errors import UnboxError
from unbox.models.pipeline_files import chosen, paths_in, pipeline_files
from unbox.models.pipeline_kind import check_index
from unbox.models.system_table import SYSTEMS
from unbox.models.systems import BUNDLED, PIPELINE_FILE, Need, Part, System
from unbox.text_files import read_json_object

#: Half precision without the single files and other formats that the rows' repositories hold beside it.
ONLY_NEEDED = '--include "*.json" --include "*.txt" --include "*/*.fp16.safetensors"'
#: Configuration and tokenizers of a pipeline, some 4 MB.
ONLY_TEXTS = '--include "*.json" --include "*.txt"'


def bundled_folder(reference: str) -> Path:
    """Folder of a bundled model, `bundled:NAME`."""
    return Path(str(files("unbox.shapes"))) / "weights" / reference.removeprefix(BUNDLED)


def base_folder(
    reference: str, download: bool = True, without: Collection[str] = (), allow_pickle: bool = False
) -> Path:
    """Local folder of a pipeline: bundled, or a Hub id from the cache or (if `download`) the network.

    `without`: components whose weights come from elsewhere, which are not fetched. Of the others one set of
    weights is: half precision where the listing has it, and never another because a download broke off.
    Raises UnboxError where they are nowhere, with the Hub's reason.
    """
    if reference.startswith(BUNDLED):
        folder = bundled_folder(reference)
        if not whole(folder):
            raise UnboxError(
                f"the bundled model {folder.name} is not in this installation (looked in {folder}); "
                f"install the whole repository, or train it: unbox recipe shapes. {ready_line()}"
            )
        return folder

    def fetch() -> Path:
        commit, paths = _listing(reference)
        if PIPELINE_FILE not in paths:
            raise UnboxError(f"{reference} is no diffusers pipeline: it has no {PIPELINE_FILE}")
        index = read_json_object(Path(hf_hub_download(reference, PIPELINE_FILE, revision=commit)))
        check_index(index, reference)
        needed = pipeline_files(paths, index, reference, without, allow_pickle)
        return Path(snapshot_download(reference, allow_patterns=list(needed.paths)))

    if (cached := _cached(reference, PIPELINE_FILE)) is not None:
        check_index(read_json_object(cached / PIPELINE_FILE), reference)
    known = any(reference in (system.base, system.refiner) for system in SYSTEMS.values())
    wanted = " ".join([ONLY_NEEDED, *(f'--exclude "{part}/*.safetensors"' for part in without)])
    need = Need(reference, PIPELINE_FILE, 0, tuple(without))
    return _found_or_fetched(need, wanted if known else "", fetch, download, allow_pickle)


def texts_folder(reference: str, download: bool = True) -> Path:
    """Local folder with a pipeline's configuration and tokenizers, for weights that come from elsewhere."""

    def fetch() -> Path:
        _, paths = _listing(reference)
        texts = [path for path in paths if path.endswith((".json", ".txt")) and ".index." not in path]
        return Path(snapshot_download(reference, allow_patterns=texts))

    found = _cached(reference, PIPELINE_FILE)
    if found is not None and (found / "tokenizer_2" / "vocab.json").is_file():
        return found
    return _fetched(Need(reference, PIPELINE_FILE, 0), ONLY_TEXTS, fetch, download, None)


def part_file(part: Part, download: bool = True) -> Path:
    """Local path of a part: a file, or for a repository without a named file its folder. Raises UnboxError
    where it is nowhere."""
    if part.repo.startswith(BUNDLED):
        if not whole(folder := bundled_folder(part.repo)):
            raise UnboxError(
                f"the bundled weights of {folder.name} are not in this installation (looked in {folder}); "
                f"install the whole repository. {ready_line()}"
            )
        return folder

    def fetch() -> Path:
        if part.file:
            return Path(hf_hub_download(part.repo, part.file))
        return Path(snapshot_download(part.repo, allow_patterns=["*.safetensors", "*.json"]))

    return _found_or_fetched(Need(part.repo, part.file, part.bytes), part.file, fetch, download)


def component_folder(repo: str, download: bool = True) -> Path:
    """Local folder of a repository that holds one component: its configuration and weights."""

    def fetch() -> Path:
        _, paths = _listing(repo)
        weights = chosen([path for path in paths if "/" not in path], repo)
        return Path(snapshot_download(repo, allow_patterns=["config.json", *weights.files]))

    return _found_or_fetched(Need(repo, "", 0), "", fetch, download)


def _listing(repo: str) -> tuple[str, list[str]]:
    """The last commit of a repository, and the paths of its files."""
    info = HfApi().model_info(repo)
    return str(info.sha), [sibling.rfilename for sibling in info.siblings or ()]


def _found_or_fetched(
    need: Need, wanted: str, fetch: Callable[[], Path], download: bool, allow_pickle: bool = False
) -> Path:
    """Look in the cache, then fetch. `wanted`: what to tell `hf download`."""
    found = _cached(need.repo, need.file)
    if found is not None and whole(found, need.without, allow_pickle):
        return found
    return _fetched(need, wanted, fetch, download, found)


def _fetched(need: Need, wanted: str, fetch: Callable[[], Path], download: bool, piece: Path | None) -> Path:
    """What `fetch` gives. Raises UnboxError with the reason, where the network is not to be asked too."""
    online = download and not constants.HF_HUB_OFFLINE
    reason: Exception | None = None
    if online:
        try:
            return fetch()
        except UnboxError:
            raise
        except (HTTPError, OSError, ValueError) as error:
            reason = error
    what = need.repo if need.file in ("", PIPELINE_FILE) else f"{need.repo}/{need.file}"
    command = f"hf download {need.repo} {wanted}".strip()
    raise UnboxError(
        f"no weights: looked for {what} in the cache at {constants.HF_HUB_CACHE}"
        + (f", where {piece} is only a piece of it" if piece else "")
        + (f", and on the Hub: {_said(reason, need.repo)}" if reason is not None else " (offline)")
        + f". Fetch it where there is a network with `{command}` and copy the cache here, or give a local "
        f"diffusers folder. {ready_line()}"
    ) from reason


def _said(error: Exception, repo: str) -> str:
    """Why the Hub did not give it, in a few words."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # it says that there is nothing here, of whatever the Hub answered
    if isinstance(error, GatedRepoError):
        return f"its licence must be accepted on the page of {repo} there; then `hf auth login`, or HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private (`hf auth login`, or HF_TOKEN)"
    if isinstance(error, HFValidationError):
        return "that is no repository's name"
    line = (str(error).strip().splitlines() or [""])[0]
    name = type(error).__name__
    return f"{name}: {line}" if line and not line.startswith(name) else line or name


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


def whole(path: Path, without: Collection[str] = (), allow_pickle: bool = False) -> bool:
    """Whether a file is there, or a folder has weights: a pipeline's, for each part that its index names.

    `without`: components whose weights come from elsewhere.
    """
    index = path / PIPELINE_FILE
    if not index.is_file():
        return path.is_file() or any(path.glob("*.safetensors"))
    parts = read_json_object(index)
    try:
        needed = pipeline_files(paths_in(path), parts, str(path), without, allow_pickle)
    except UnboxError:
        return False
    return bool(needed.weights)


def missing(system: System) -> list[Need]:
    """What of `system.needs` is not in the Hub's cache (nothing is fetched)."""
    found = {need: _cached(need.repo, need.file) for need in system.needs}
    return [need for need, place in found.items() if place is None or not whole(place, need.without)]


def present(system: System) -> bool:
    """Whether everything the system needs is on this machine (nothing is fetched)."""
    if system.base is None:
        return False
    if system.base.startswith(BUNDLED):
        parts = [part.repo for part in system.parts if part.repo.startswith(BUNDLED)]
        return all(whole(bundled_folder(each)) for each in [system.base, *parts]) and not missing(system)
    return not missing(system)


def ready_line() -> str:
    """One sentence: the systems that can run here now."""
    ready = [name for name, system in SYSTEMS.items() if present(system)]
    return f"Ready here: {', '.join(ready)}." if ready else "No system is ready here; see `unbox models`."


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the loading bars and advice of diffusers and transformers, and put them back.

    The Hub's bars stay as they are: transformers' switch turns them off too.
    """
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging as transformers_logging

    modules = (diffusers_logging, transformers_logging)
    levels = [module.get_verbosity() for module in modules]
    bars = [module.is_progress_bar_enabled() for module in modules]
    of_hub = not are_progress_bars_disabled()
    for module in modules:
        module.set_verbosity_error()
        module.disable_progress_bar()
    if of_hub:
        enable_progress_bars()
    try:
        yield
    finally:
        for module, level, bar in zip(modules, levels, bars, strict=True):
            module.set_verbosity(level)
            if bar:
                module.enable_progress_bar()
        if not of_hub:
            disable_progress_bars()
