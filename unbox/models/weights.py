"""Finding weights: a bundled folder, a local one, the Hub's cache, and only then the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub import constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from unbox.models.rows import SYSTEMS
from unbox.models.systems import Part, System
from unbox.words import UnboxError

BUNDLED = "bundled:"


def bundled_folder(reference: str) -> Path:
    """Folder of a bundled model, `bundled:NAME`."""
    return Path(str(files("unbox.shapes"))) / "weights" / reference.removeprefix(BUNDLED)


def base_folder(reference: str, download: bool = True) -> Path:
    """Local folder of a pipeline: bundled, or a Hub id from the cache or (if `download`) the network."""
    if reference.startswith(BUNDLED):
        folder = bundled_folder(reference)
        if not (folder / "model_index.json").is_file():
            raise UnboxError(
                f"the bundled model {folder.name} is not in this installation (looked in {folder}); "
                f"install the whole repository, or train it: unbox recipe {folder.name}. {ready_line()}"
            )
        return folder

    def fetch(variant: str | None, local: bool) -> Path:
        with quiet():
            return Path(
                DiffusionPipeline.download(
                    reference, variant=variant, use_safetensors=True, local_files_only=local
                )
            )

    return _fetch(reference, "", fetch, download)


def part_file(part: Part, download: bool = True) -> Path:
    """Local path of a part: a file, or for a repository without a named file its folder."""

    def fetch(_variant: str | None, local: bool) -> Path:
        if part.file:
            return Path(hf_hub_download(part.repo, part.file, local_files_only=local))
        patterns = ["*.safetensors", "*.json"]
        return Path(snapshot_download(part.repo, allow_patterns=patterns, local_files_only=local))

    return _fetch(part.repo, part.file, fetch, download)


def _fetch(repo: str, file: str, fetch: Any, download: bool) -> Path:
    """Try the cache and then the network, half precision first."""
    attempts = [("fp16", True), (None, True)]
    if download and not constants.HF_HUB_OFFLINE:
        attempts += [("fp16", False), (None, False)]
    reason: Exception | None = None
    for variant, local in attempts:
        try:
            path = fetch(variant, local)
            if path.is_file() or any(path.iterdir()):
                return path
        except (OSError, ValueError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            reason = error
    what = f"{repo}/{file}" if file else repo
    raise UnboxError(
        f"no weights: looked for {what} in the cache at {constants.HF_HUB_CACHE}"
        + (
            " and on the Hub, which did not give it"
            if download and not constants.HF_HUB_OFFLINE
            else " (offline)"
        )
        + f". Fetch it where there is a network with `hf download {repo}{' ' + file if file else ''}` "
        f"and copy the cache here, or give a local diffusers folder. {ready_line()}"
    ) from reason


def present(system: System) -> bool:
    """Whether everything the system needs is on this machine (nothing is fetched)."""
    if system.base is None:
        return False
    if system.base.startswith(BUNDLED):
        return (bundled_folder(system.base) / "model_index.json").is_file()
    needed = [(repo, "model_index.json") for repo in (system.base, system.refiner) if repo]
    needed += [(part.repo, part.file or "README.md") for part in system.parts]
    return all(isinstance(try_to_load_from_cache(repo, file), str) for repo, file in needed)


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
