"""Edits in files, and their SAEs put back."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from activation_store.files import write_json
from unbox.dictionary import Dictionary
from unbox.edit import Edit, Edits
from unbox.edit_ops import OPS
from unbox.errors import UnboxError
from unbox.text_files import read_json_file
from unbox.validation import FilePath, behind, checked


def save_edits(edits: Edit | Edits, path: str | Path) -> Path:
    """Write edits as JSON, whole or not at all. Raises UnboxError for what acts elsewhere than at a block's
    update, a `TokenSlider` or `HeadScale` say: files of edits hold none."""
    path = checked(FilePath, "path", path, "save_edits")
    if not isinstance(edits, Edit | Edits):
        raise UnboxError(
            f"a {type(edits).__name__} is kept in no file of edits: they hold changes of blocks' updates; "
            "make it again from its numbers and give it to generate(edits=...)"
        )
    write_json(path, Edits.of(edits).to_json())
    return path


def load_edits(path: str | Path, saes: Mapping[str, Dictionary] | None = None) -> Edits:
    """Read edits from JSON and, where SAEs are given, attach them. Raises UnboxError, naming the file."""
    path = checked(FilePath, "path", path, "load_edits")
    if not path.is_file():
        raise UnboxError(f"there is no file of edits {path}")
    with behind(str(path)):
        edits = Edits.from_json(read_json_file(path))
    return edits if saes is None else bind(edits, saes)


def bind(edits: Edit | Edits, saes: Mapping[str, Dictionary]) -> Edits:
    """The same edits carrying their SAEs: `saes` by block or by the name in an edit's `source`.

    Edits that need none (directions without units, scaled blocks) are left as they are. Raises UnboxError for
    an SAE that is not there.
    """
    return Edits(tuple(_bound(edit, saes) for edit in Edits.of(edits)))


def _bound(edit: Edit, saes: Mapping[str, Dictionary]) -> Edit:
    if not (edit.subject == "feature" or OPS[edit.op].reconstructs or edit.unit == "deviation"):
        return edit
    names = [name for name in (edit.source, edit.block) if name is not None]
    named = [saes[name] for name in names if name in saes]
    fitting = named or [sae for sae in saes.values() if sae.block == edit.block]
    if edit.source is not None and edit.source not in saes:
        fitting = [sae for sae in fitting if sae.name == edit.source]
    if len(fitting) == 0 or (not named and len(fitting) > 1):
        why = "no SAE" if not fitting else f"{len(fitting)} SAEs and no source to say which"
        asked = f"{edit.block} ({edit.source})" if edit.source else edit.block
        raise UnboxError(
            f"an edit of {asked} has {why}; there are SAEs of {', '.join(sorted(saes)) or 'no block'}"
        )
    return replace(edit, sae=fitting[0])
