"""SAEs of other packages, in and out. A format is a row of `FORMATS` and a module of its own.

Whatever is read is converted exactly: the imported SAE gives the codes that the package itself gives.
"""

import os
from dataclasses import replace
from pathlib import Path

from activation_store import StoreError
from activation_store.files import publish_folder
from unbox.errors import UnboxError
from unbox.sae.interop import dictionary_learning, directions, overcomplete, saelens, sdxl_unbox, sparsify
from unbox.sae.interop.common import Format
from unbox.sae.model import SAE, load_saes
from unbox.sae.sae_folder import WEIGHTS, is_sae
from unbox.sae.transcoder import Transcoder, is_transcoder

#: Name -> how to recognise, read and write it.
FORMATS: dict[str, Format] = {
    "sdxl-unbox": sdxl_unbox,
    "saelens": saelens,
    "sparsify": sparsify,
    "dictionary-learning": dictionary_learning,
    "overcomplete": overcomplete,
    "directions": directions,
}


def import_sae(path: str | os.PathLike, kind: str | None = None, block: str | None = None) -> SAE:
    """Read another package's SAE from a folder. `kind` is a key of `FORMATS`; None: recognised by its files.

    `block` names its block where the folder does not say. Raises UnboxError for what is not understood
    exactly, rather than reading it wrongly; no code in the files is run.
    """
    folder = Path(path)
    found = [kind] if kind else [name for name, form in FORMATS.items() if form.recognises(folder)]
    if not found:
        raise UnboxError(f"{folder} holds no SAE in a known layout; there are {', '.join(FORMATS)}")
    sae = _format(found[0]).read(folder)
    for name in WEIGHTS:
        if not getattr(sae, name).isfinite().all():
            raise UnboxError(f"{folder}: {name} is too large for float32 when its options are folded in")
    if block is not None:
        sae = replace(sae, block=block, name=block)
    return replace(sae, meta={**sae.meta, "imported": {"format": found[0], "folder": folder.name}})


def import_all(path: str | os.PathLike, kind: str | None = None) -> dict[str, SAE]:
    """Every SAE in a folder of folders (or the folder itself), by the folder's name."""
    root = Path(path)
    if not root.is_dir():
        raise UnboxError(f"{root} is not a folder")
    forms = [_format(kind)] if kind else list(FORMATS.values())

    def recognised(folder: Path) -> bool:
        return folder.is_dir() and any(form.recognises(folder) for form in forms)

    # A folder that is an SAE holds no others: `final` in it is itself.
    folders = [root] if recognised(root) else [path for path in sorted(root.iterdir()) if recognised(path)]
    if not folders:
        raise UnboxError(f"{root} holds no SAE in a known layout; there are {', '.join(FORMATS)}")
    return {folder.name: import_sae(folder, kind) for folder in folders}


def load_any(path: str | os.PathLike) -> dict[str, SAE]:
    """The SAEs of a folder in unbox's own layout or in any that can be imported, by name. Raises UnboxError
    where there is none."""
    folder = Path(path)
    if folder.is_dir() and not any(is_sae(place) for place in (folder, *folder.iterdir())):
        if other := next((place for place in (folder, *folder.iterdir()) if is_transcoder(place)), None):
            raise UnboxError(
                f"{other} is a transcoder: its codes are of {_source(other)}, not of the update edited; "
                "SAEs can be tested, and its decoder as a set of directions (`directions.safetensors`)"
            )
        return import_all(folder)
    return load_saes(folder)


def export_sae(sae: SAE, path: str | os.PathLike, kind: str) -> None:
    """Write an SAE as another package's folder, whole or not at all; one with just these files stays.

    Raises UnboxError where the layout cannot say what the SAE is (a threshold, in some), and for a folder
    that holds anything else.
    """
    form = _format(kind)
    try:
        with publish_folder(path, same=True) as temporary:
            form.write(replace(sae).to("cpu"), temporary)
    except StoreError as error:
        raise UnboxError(str(error)) from None


def _source(folder: Path) -> str:
    return Transcoder.load(folder).source or "another place"


def _format(kind: str) -> Format:
    if kind not in FORMATS:
        raise UnboxError(f"no layout '{kind}'; there are {', '.join(FORMATS)}")
    return FORMATS[kind]


__all__ = ["FORMATS", "Format", "export_sae", "import_all", "import_sae", "load_any"]
