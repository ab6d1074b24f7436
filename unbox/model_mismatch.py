"""Whether model, store and SAEs belong together: a store records its model, an SAE that of its training."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.result_cache import key_of

#: What is done where they do not.
MismatchPolicy = Literal["allow", "warn", "refuse"]
#: Parts of a model that an SAE depends on; of a store's pictures all do.
OF_UPDATES = ("UNet", "LoRA")


class ModelMismatchWarning(UserWarning):
    """A model, a store and SAEs are used together that are of different models."""


class HasFingerprint(Protocol):
    """A model: `unbox.models.Model`."""

    @property
    def fingerprint(self) -> dict[str, Any]: ...

    @property
    def unet_fingerprint(self) -> dict[str, Any]:
        """What of it is of the UNet: all that SAEs are compared by."""
        ...


class HasProvenance(Protocol):
    """A store: `activation_store.Store`."""

    path: Path | str

    @property
    def provenance(self) -> Mapping[str, Any]: ...


class HasMeta(Protocol):
    """An SAE: `unbox.sae.SAE`."""

    @property
    def meta(self) -> dict[str, Any]: ...


class HasIdentity(Protocol):
    """An SAE: `unbox.sae.SAE`."""

    @property
    def identity(self) -> str: ...


class Origin(NamedTuple):
    """The model that something is of."""

    what: str
    """In a sentence: `the store acts/ is of`."""
    system: str
    dtype: str
    parts: Mapping[str, str]
    """Part of the model -> what tells it from others."""
    scheduler: Mapping[str, JSON]

    @classmethod
    def of(cls, what: str, fingerprint: Mapping[str, Any]) -> "Origin":
        """That of a model's fingerprint, or of the part of one."""
        weights, system = fingerprint.get("weights", {}), fingerprint.get("system", {}).get("name", "a model")
        parts = dict(_weights(weights))
        if "adapters" in fingerprint:
            lora = [fingerprint["adapters"], fingerprint.get("strengths", {})]
            parts["LoRA"] = key_of(lora, 8) if fingerprint["adapters"] else "none"
        scheduler = {k: v for k, v in fingerprint.get("scheduler", {}).items() if k != "model_dtype"}
        return cls(what, system, fingerprint.get("dtype", ""), parts, scheduler)

    def differs(self, other: "Origin", among: Sequence[str] | None = None) -> list[str]:
        """Parts that are known of both and differ. Weights in other number formats cannot be compared: where
        they are, the system's name is."""
        if self.dtype and other.dtype and self.dtype != other.dtype:
            found = [] if self.system == other.system else ["system"]
            common = ["LoRA"] if "none" in (self.parts.get("LoRA"), other.parts.get("LoRA")) else []
        else:
            found, common = [], [name for name in self.parts if name in other.parts]
        found += [name for name in common if self.parts.get(name) != other.parts.get(name)]
        shared = self.scheduler.keys() & other.scheduler.keys()
        if any(self.scheduler[key] != other.scheduler[key] for key in shared):
            found.append("scheduler")
        return [name for name in found if among is None or name in (*among, "system")]

    def told(self, parts: Sequence[str]) -> str:
        """The model with the parts that tell it from another."""
        details = [f"{name} {self.parts[name][:8]}" for name in parts if name in self.parts]
        return f"{self.what} {self.system}" + (f" ({', '.join(details)})" if details else "")


def check_same_model(
    saes: Mapping[str, HasMeta] | None = None,
    *,
    model: HasFingerprint | None = None,
    store: HasProvenance | None = None,
    policy: MismatchPolicy = "warn",
) -> None:
    """Compare what is known of the models that these are of, the SAEs with the store where there is one.

    Where they differ, warns once (ModelMismatchWarning) or raises UnboxError, naming both and the parts;
    `policy` "allow": says nothing. Of SAEs that were trained before this was recorded nothing is known.
    """
    if policy == "allow":
        return
    for text in _mismatches(saes or {}, model, store):
        meant = "if that is meant: --model-mismatch allow"
        if policy == "refuse":
            raise UnboxError(f"{text}; {meant}")
        warnings.warn(f"{text}: they do not belong together; {meant}", ModelMismatchWarning, stacklevel=2)


def check_same_saes(
    known: Mapping[str, str], saes: Mapping[str, HasIdentity], what: str, policy: MismatchPolicy = "warn"
) -> None:
    """Like `check_same_model`, for SAEs by name and the identities that `what` knows of the same names."""
    differing = [name for name, sae in saes.items() if name in known and sae.identity != known[name]]
    if policy == "allow" or not differing:
        return
    some = "; ".join(f"{name} was {known[name][:8]}, is {saes[name].identity[:8]}" for name in differing)
    text = f"{what} is of other SAEs ({some}): its features may not be theirs; build it again"
    if policy == "refuse":
        raise UnboxError(f"{text}, or --model-mismatch allow")
    warnings.warn(text, ModelMismatchWarning, stacklevel=2)


def recorded_model(provenance: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The fingerprint of the model that a store's provenance records; of a merged store's parts, if equal."""
    run = recorded_run(provenance)
    found = run.get("model")
    return found if isinstance(found, Mapping) else None


def recorded_run(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a store records of its run: model, steps, guidance, sizes. Of a merged store: what is the same in
    all of its parts."""
    parts = provenance.get("merged")
    if not isinstance(parts, Sequence) or not parts:
        return provenance
    first, *rest = (recorded_run(part["provenance"]) for part in parts)
    return {name: value for name, value in first.items() if all(run.get(name) == value for run in rest)}


def unet_part(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What of a fingerprint is of the UNet: what an SAE records of the model that it was trained on."""
    part = {name: fingerprint[name] for name in ("adapters", "strengths", "dtype") if name in fingerprint}
    weights = {name: key for name, key in fingerprint.get("weights", {}).items() if name == "unet"}
    return {"system": {"name": fingerprint.get("system", {}).get("name", "")}, "weights": weights, **part}


def _mismatches(
    saes: Mapping[str, HasMeta], model: HasFingerprint | None, store: HasProvenance | None
) -> Iterator[str]:
    """A sentence for each pair that is of different models."""
    recorded = None if store is None else recorded_model(store.provenance)
    of_store = (
        None if recorded is None or store is None else Origin.of(f"the store {store.path} is of", recorded)
    )
    if model is not None and of_store is not None:
        present = Origin.of("the model is", model.fingerprint)
        if parts := of_store.differs(present):
            yield f"{of_store.told(parts)}, {present.told(parts)} (another {', '.join(parts)})"
    trained = {name: origin for name, sae in saes.items() if (origin := _trained_on(sae)) is not None}
    if not trained or (of_store is None and model is None):
        return
    present = of_store or Origin.of("the model is", model.unet_fingerprint if model is not None else {})
    groups: dict[str, list[str]] = {}
    for name, origin in trained.items():
        if parts := origin.differs(present, OF_UPDATES):
            groups.setdefault(f"{origin.told(parts)}, {present.told(parts)}", []).append(name)
    for text, names in groups.items():
        yield f"SAE{'s' * (len(names) > 1)} {', '.join(names)} {text}"


def _trained_on(sae: HasMeta) -> Origin | None:
    recorded = (sae.meta.get("provenance") or {}).get("model")
    return Origin.of("trained on", recorded) if isinstance(recorded, Mapping) else None


def _weights(hashes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Names of parts as people say them, of the hashes of modules."""
    for name, key in hashes.items():
        base = name.removeprefix("refiner.")
        said = {"unet": "UNet", "vae": "VAE"}.get(base, base.replace("_", " "))
        yield said if base == name else f"refiner's {said}", key
