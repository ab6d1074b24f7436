"""What the explorer accepts: the rules of `unbox.validation`, with bounds of its own.

Every number, text and mask that comes from a browser, a link, a PNG or the API passes one of them: Gradio's
own bounds do not stop NaN, fractions of steps or long texts.
"""

import ipaddress
import math
import re
from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge, Le, Lt, MaxLen, MinLen
from pydantic import AfterValidator, BeforeValidator, PlainValidator, StringConstraints

from unbox.edit import Edit, Edits
from unbox.errors import FieldError
from unbox.json_types import JSON
from unbox.mask import Shape
from unbox.validation import (
    Count,
    Guidance,
    Index,
    Real,
    Seed,
    Several,
    Side,
    Steps,
    Text,
    Whole,
    checked,
    inside,
)  # fmt: skip

PROMPT, JSON_BYTES, EDITS, MASK_CELLS = 2000, 1 << 20, 64, 512 * 512
STEPS, GUIDANCE, SIDE = 100, 50.0, 2048
#: Most characters of a seed that is typed: it has 20 digits at most.
SEED_DIGITS = 24
#: Largest strength that is typed; largest value of an edit: a random control's may be larger than what was
#: typed; most features of one edit.
STRENGTH, VALUE, FEATURES = 1000.0, 1e6, 64
#: What controls say for all steps, or any.
EVERY_STEP = ("all", "any")
#: Features that a request may ask for at most.
MOST = 200


def _one_line(value: str) -> str:
    return " ".join(value.split())


def _typed(value: object) -> object:
    """A whole number of a text of digits. A browser's numbers are exact up to 2^53 alone: seeds are texts."""
    typed = isinstance(value, str) and len(value) <= SEED_DIGITS and re.fullmatch(r"\s*[0-9]+\s*", value)
    return int(value) if typed else value  # type: ignore[call-overload]  # a text


def _step_choice(value: str) -> str:
    if value not in EVERY_STEP and not re.fullmatch("[0-9]{1,9}", value):
        raise ValueError("should be 'all', or a step like 0")
    return value


def step_of(choice: object) -> int | None:
    """The step that a page's control says; None for all, or any."""
    found = checked(StepChoice, "step", choice)
    return None if found in EVERY_STEP else int(found)


def _places(value: object) -> frozenset[int]:
    return frozenset(checked(_Places, "", value))


_Places = Annotated[Several[Index], MaxLen(EDITS)]


def _host(value: str) -> str:
    """An address or a name that one can serve at."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*", value) or len(value) > 253:
            raise ValueError("should be an address or a host's name, like 127.0.0.1") from None
    return value


def _edits(value: "JSON | Edits") -> Edits:
    """Edits from JSON, in which no mask is unpacked that is too large."""
    if value is None or isinstance(value, Edits):
        return Edits.of(value)
    rows = value.get("edits") if isinstance(value, Mapping) and "edits" in value else value
    rows = rows if isinstance(rows, list | tuple) else [rows]
    if len(rows) > EDITS:
        raise FieldError("", "", f"{len(rows):,} edits", f"should be at most {EDITS}")
    for place, row in enumerate(rows):
        where = row.get("where") if isinstance(row, Mapping) else None
        if isinstance(where, Mapping) and "shape" in where:
            with inside(f"[{place}].where"):
                shape = checked(Shape, "shape", where["shape"])
            _small(shape, place)
    try:
        return Edits.from_json(value)
    except FieldError as error:  # here, the list is the field
        raise FieldError("", error.field.removeprefix("edits"), error.value, error.rule) from None


def _bounded(edits: Edits) -> Edits:
    """Not too many edits, not too strong, no mask that is too large."""
    if len(edits) > EDITS:
        raise FieldError("", "", f"{len(edits):,} edits", f"should be at most {EDITS}")
    for place, edit in enumerate(edits):
        _check(edit, place)
    return edits


def _check(edit: Edit, place: int) -> None:
    values = edit.value if isinstance(edit.value, tuple) else (edit.value,)
    if (largest := max(values, key=abs)) and abs(largest) > VALUE:
        raise FieldError("", f"[{place}].value", largest, f"should be from {-VALUE:,.0f} to {VALUE:,.0f}")
    if len(edit.feature) > FEATURES:
        rule = f"should be at most {FEATURES}"
        raise FieldError("", f"[{place}].feature", f"{len(edit.feature):,} features", rule)
    if edit.where is not None:
        _small(edit.where.shape, place)


def _small(shape: tuple[int, ...], place: int) -> None:
    if math.prod(shape) > MASK_CELLS:
        rule = f"should have at most {MASK_CELLS:,} cells"
        raise FieldError("", f"[{place}].where.shape", shape, rule)


#: Texts of one line: spaces for line breaks, joiners (of emoji, of Persian) kept, no control characters.
Line = Annotated[Text, AfterValidator(_one_line), MaxLen(200)]
Prompt = Annotated[Text, AfterValidator(_one_line), MaxLen(PROMPT)]
MaybePrompt = Annotated[Prompt, BeforeValidator(lambda value: "" if value is None else value)]
Words = Annotated[MaybePrompt, MaxLen(300)]
#: A recipe in a query string.
Link = Annotated[Text, MaxLen(60_000)]
#: A whole number as a page sends it, as text.
TypedSeed = Annotated[Seed, BeforeValidator(_typed)]
StepChoice = Annotated[Text, AfterValidator(_step_choice)]

ImageSteps = Annotated[Steps, Le(STEPS)]
#: 0 is the system's own.
StepsOrNone = Annotated[Whole, Ge(0), Le(STEPS)]
ImageGuidance = Annotated[Guidance, Le(GUIDANCE)]
ImageSide = Annotated[Side, Ge(32), Le(SIDE)]
Strength = Annotated[Real, Ge(-STRENGTH), Le(STRENGTH)]
#: A place in fractions of a picture's width or height.
Fraction = Annotated[Real, Ge(0), Lt(1)]
Many = Annotated[Count, Le(MOST)]
#: How many draws, or seeds, as a page's control says it.
REPEATS = ("1", "5", "20")
Repeats = Annotated[Text, StringConstraints(pattern=r"^(1|5|20)$")]
#: Seed of a random control's draw; None where edits are no control.
Draw = Annotated[Index | None, Le(2**31)]
#: Places in a list of edits, and the list.
Places = Annotated[frozenset[int], PlainValidator(_places)]
ImageEdits = Annotated[Edits, BeforeValidator(_edits), AfterValidator(_bounded)]


def _root_path(value: str) -> str:
    """A path that a proxy serves the app under, or an address; empty for none."""
    path = re.sub(r"^https?://[A-Za-z0-9.\[\]:-]+", "", value)
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*/?", path):
        raise ValueError("should be a path like /unbox, or an address like https://host/unbox")
    return value.rstrip("/")


#: A photo's name in a recipe: see `photo_start.Photos`.
PhotoName = Annotated[Text, StringConstraints(pattern=r"^([0-9a-f]{32})?$")]
Host = Annotated[Text, AfterValidator(_host)]
RootPath = Annotated[Text, MaxLen(200), AfterValidator(_root_path)]
LargestPicture = Annotated[Real, Ge(1), Le(1024)]
#: An empty one would be none.
Password = Annotated[Text, MinLen(1), MaxLen(200)]
