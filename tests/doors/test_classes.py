"""Every validated class, read from the code: values of every kind at every field, UnboxError or success."""

import inspect
import pkgutil
import typing
from dataclasses import MISSING, fields
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unbox
from tests.doors.values import PYTHON_VALUES, THROW, bounded_memory, check_message, finite
from unbox.edit import Edit, Edits
from unbox.errors import FieldError, UnboxError
from unbox.experiments.experiment_plan import Condition
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.prompt import Prompt
from unbox.validation import VALIDATED

for module in pkgutil.walk_packages(unbox.__path__, "unbox."):
    if not module.name.endswith("__main__"):
        import_module(module.name)

CLASSES = {name: kind for name, kind in sorted(VALIDATED.items()) if name.startswith("unbox.")}
#: Something for a field that must be given.
PLAUSIBLE = ("a", 1, 0.5, True, "shapes-turbo", "up.0.1", "x.png", ("a",), (1,), (0.0, 0.0, 1.0, 1.0), (), {})
#: Where rules between fields, or fields of other kinds, leave no object of those alone.
BESIDES = {
    "unbox.atlas.atlas_files.AtlasIndex": {
        "store": {"digest": "a", "images": 1, "steps": [0], "branches": ["cond"], "provenance": {}},
        "saes": [
            {"name": "a", "block": "mid.0", "latents": 1, "k": 1, "width": 1, "update_std": 0.0, "key": "a"}
        ],
    },
    "unbox.edits.apply.EditHook": {"edits": Edits(())},
    "unbox.explorer.edit_controls.EditForm": {"steps": "all"},
    "unbox.explorer.picture_grid.GridPlan": {
        "x": "seed",
        "x_values": "0-1",
        "y": "strength",
        "y_values": "1, 2",
    },
    "unbox.cli.bench.BenchShapesCommand": {"settings": BenchSettings()},
    "unbox.cli.diff.DiffCommand": {"models": ("a", "b")},
    "unbox.cli.label.LabelCommand": {"endpoint": "http://localhost:8000/v1"},
    "unbox.atlas.vlm_labels.Endpoint": {"url": "http://localhost:8000/v1"},
    "unbox.mask.Mask": {"own": True},
    "unbox.sae.crosscoder.Sources": {"names": ("a", "b")},
    "unbox.mask._ArrayInJSON": {"shape": (1, 1)},
    "unbox.vectors.Vectors": {"shape": (1, 1), "data": b"ab"},
    "unbox.vectors._InJSON": {"shape": (1, 1)},
    "unbox.edit.Edit": {"block": "up.0.1", "op": "scale"},
    "unbox.experiments.experiment_plan.ExperimentPlan": {
        "model": "a",
        "prompts": (Prompt("a"),),
        "conditions": (Condition("a", Edits((Edit("up.0.1", "scale"),)), {}),),
    },
}


def examples(name: str) -> dict[str, object]:
    """Values of the fields that must be given, with which an object of a class can be made."""
    kind, usual = CLASSES[name], BESIDES.get(name, {})
    needed = [f.name for f in fields(kind) if f.init and f.default is f.default_factory is MISSING]
    hints = typing.get_type_hints(kind, include_extras=True)
    left = {each: [*literals(hints[each]), *PLAUSIBLE] for each in needed if each not in usual}
    while True:
        found = {each: values[0] for each, values in left.items()}
        try:
            kind(**found, **usual)
            return found | usual
        except FieldError as error:
            wrong = error.field.partition("[")[0]
            if len(left.get(wrong, ())) < 2:
                pytest.fail(f"add to PLAUSIBLE what {wrong} of {name} takes: {error}")
            del left[wrong][0]


def literals(hint: object) -> tuple[object, ...]:
    """The values of the first Literal in an annotation."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return next((found for each in typing.get_args(hint) if (found := literals(each))), ())


def test_the_list_is_read_from_the_code():
    assert len(CLASSES) >= 30
    for name in ("models.calls.Call", "edit.Edit", "sae.plan.Plan", "cli.app.AppCommand"):
        assert f"unbox.{name}" in CLASSES


@pytest.mark.parametrize("name", CLASSES)
def test_every_field(name):
    kind = CLASSES[name]
    names = [field.name for field in fields(kind) if field.init]
    if not names:
        pytest.skip("has no fields")
    usual = examples(name)

    @THROW
    @given(field=st.sampled_from(names), value=PYTHON_VALUES)
    def throw(field, value):
        try:
            with bounded_memory():
                made = kind(**{**usual, field: value})
        except UnboxError as error:
            check_message(error, field)
        else:
            # Facts of a prompt are anybody's: what is not JSON is refused where they are kept.
            assert finite(getattr(made, field)) or field == "meta"

    throw()


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_has_a_rule(name):
    """A bare `int` or `float` takes no numpy and no bounds, a bare `str` takes control characters."""
    hints = typing.get_type_hints(CLASSES[name], include_extras=True)
    given = [field.name for field in fields(CLASSES[name]) if field.init]
    assert {name: hints[name] for name in given if _bare(hints[name])} == {}


def _bare(hint: object) -> bool:
    if hint in (int, float, str, tuple, list, dict, object, typing.Any):
        return True
    if typing.get_origin(hint) is typing.Annotated or inspect.isclass(hint):
        return False
    return typing.get_origin(hint) is not typing.Literal and any(map(_bare, typing.get_args(hint)))
