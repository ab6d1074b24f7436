"""What `generate(edits=..., instruments=...)` accepts: what attaches to a model and comes off again."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import singledispatch
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from unbox.errors import UnboxError

if TYPE_CHECKING:
    from unbox.models.model import Model

#: Rooms above that register types with `as_instrument` when imported; looked up by name when first needed,
#: so that an edit built without them still finds its instrument.
REGISTRARS = ("unbox.edits",)


@runtime_checkable
class Instrument(Protocol):
    """An object that observes or changes a run."""

    def attach(self, model: "Model", rows: Sequence[int] | None) -> AbstractContextManager[Any]:
        """Attach to `model` until the context ends; `rows`: image indices it applies to, None for all."""
        ...


@singledispatch
def as_instrument(value: Any) -> Instrument:
    """Turn a value into an instrument; other rooms register their own types. UnboxError for unknown types."""
    if isinstance(value, Instrument):
        return value
    for room in REGISTRARS:
        import_module(room)
    convert = as_instrument.dispatch(type(value))
    if convert is not as_instrument.dispatch(object):
        return convert(value)
    raise UnboxError(
        f"a {type(value).__name__} cannot be attached to a run; pass an Edit, Edits, None, "
        "or an object with attach(model, rows)"
    )
