"""Fetching files of SAEs from the Hugging Face Hub."""

from collections.abc import Sequence
from pathlib import Path

from unbox.errors import UnboxError
from unbox.sae.sae_folder import CARD, CONFIG, FIGURES, TENSORS

#: The only files that go up or come down.
FILES = (CONFIG, TENSORS, FIGURES, CARD)
PATTERNS = [prefix + name for prefix in ("", "*/") for name in FILES]


def download(
    repo: str, patterns: Sequence[str], revision: str | None = None, folder: str | None = None
) -> Path:
    """The folder with the files of `owner/name` that match: the Hub's cache, or `folder`.

    Raises UnboxError where there is no such repository or revision, or no way to it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = snapshot_download(repo, revision=revision, local_dir=folder, allow_patterns=list(patterns))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UnboxError(f"{repo} could not be fetched from the Hub: {first_line(error)}") from None
    return Path(found if folder is None else folder)


def first_line(error: Exception) -> str:
    """What an error of the Hub's client says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
