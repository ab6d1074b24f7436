"""What names cached results: the identities of model and SAEs, or what versions before called them."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbox.json_types import JSON
from unbox.model_identity import model_identity
from unbox.models import Model
from unbox.run_folder import RunFolder, named
from unbox.sae import SAE
from unbox.text_files import read_json_object

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ResultNames:
    """How a folder's results are named by model and SAEs.

    Versions before named results by all that they knew of the model (its path and libraries too) and by the
    SAEs' weights alone. Where a folder has such results, and the model is the same, its names stand. Those of
    an SAE stand while it is the one that the folder was first opened with: what else decides an SAE was not
    recorded then.
    """

    fingerprint: Mapping[str, Any]
    model: JSON
    """In the keys of results."""
    saes: Mapping[str, str]
    """Name -> what it is called in the keys of results."""
    identity: Mapping[str, JSON]
    """Parts that tell this run from others: `model` and `saes`."""
    before: Mapping[str, JSON]
    """The same parts of the results of a version before; empty where there are none."""
    manifest: Mapping[str, Any]
    """The folder's manifest as it was."""

    @classmethod
    def of(cls, folder: RunFolder, model: Model, saes: Mapping[str, SAE]) -> "ResultNames":
        """The names in a folder that `run_folder` holds."""
        fingerprint, identities = model.fingerprint, {name: sae.identity for name, sae in saes.items()}
        identity = model_identity(fingerprint)
        manifest = _manifest(folder.path)
        old, recorded = manifest.get("model"), folder.recorded().get("saes", {})
        old_saes = manifest.get("saes", {}) if isinstance(old, Mapping) else {}
        same_model = isinstance(old, Mapping) and model_identity(old) == identity
        kept = {
            name: digest
            for name, digest in old_saes.items()
            if name in saes
            and digest == saes[name].digest
            and recorded.get(name, identities[name]) == identities[name]
        }
        before: dict[str, JSON] = {}
        if isinstance(old, Mapping):
            about = str(old.get("system", {}).get("name", "a model")), model_identity(old)
            same = {name: identities[name] for name in kept}
            before = {"model": named(*about), "saes": {**old_saes, **same}}
        if kept and not folder.recorded():
            print(
                f"{folder.path} is of a version that kept no record of k, threshold and statistics of SAEs: "
                "its results are taken as those of the SAEs given now",
                file=sys.stderr,
            )
        parts: dict[str, JSON] = {"model": named(model.system.name, identity), "saes": identities}
        name: JSON = old if same_model else identity
        return cls(fingerprint, name, {**identities, **kept}, parts, before, manifest)

    @property
    def context(self) -> dict[str, JSON]:
        """What all results of the folder depend on, as their keys and the manifest have it."""
        return {"model": self.model, "saes": dict(self.saes)}


def _manifest(folder: Path) -> dict[str, Any]:
    return read_json_object(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
