"""SAEs on the Hugging Face Hub: whole folders of safetensors, JSON and a card, nothing else."""

import os
from pathlib import Path

from unbox.errors import UnboxError
from unbox.sae.hub_download import PATTERNS, download, first_line
from unbox.sae.model import SAE, load_saes
from unbox.sae.sae_folder import is_sae
from unbox.validation import HubName, Text, checked


def push(folder: str | os.PathLike, repo: str, private: bool = False, message: str = "Add SAEs") -> str:
    """Upload the SAEs in a folder (or the one it is) to `owner/name`, made if needed; returns its address.

    Every SAE is read and checked first. Who may write is decided by `hf auth login` or HF_TOKEN.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    repo, root = checked(HubName, "repo", repo, "push"), Path(folder)
    saes = load_saes(root)
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        about = f"{message} ({len(saes)})"
        api.upload_folder(repo_id=repo, folder_path=str(root), allow_patterns=PATTERNS, commit_message=about)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UnboxError(f"the Hub did not take {root} as {repo}: {first_line(error)}") from None
    return f"https://huggingface.co/{repo}"


def pull(repo: str, folder: str | os.PathLike, revision: str | None = None) -> dict[str, SAE]:
    """Download the SAEs of `owner/name` into a folder; returns them, read and checked."""
    repo = checked(HubName, "repo", repo, "pull")
    revision = None if revision is None else checked(Text, "revision", revision, "pull")
    download(repo, PATTERNS, revision, str(folder))
    if not is_sae(Path(folder)) and not any(is_sae(path) for path in Path(folder).iterdir()):
        raise UnboxError(f"{repo} holds no SAE of ours; other layouts come in by `unbox sae import`")
    return load_saes(folder)
