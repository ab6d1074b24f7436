"""Values of every kind, as people, files and browsers bring them; and what a good refusal looks like."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from unbox import memory_limit
from unbox.errors import FieldError, UnboxError

#: Examples of each door; UNBOX_DOOR_EXAMPLES=2000 throws that many.
EXAMPLES = int(os.environ.get("UNBOX_DOOR_EXAMPLES", "25"))
THROW = settings(
    max_examples=EXAMPLES,
    suppress_health_check=list(HealthCheck),
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # a value as it was thrown says enough, and is not made smaller
)
#: Bytes that one door may take at once, whatever it is given.
MEMORY = 1_000_000_000

NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([-1, 0, 1, 3, 7, 8, 2**31, 2**32, 2**53 + 1, 2**63, 2**64 - 1, 2**64, 2**70, 10**400]),
    st.floats(),
    st.sampled_from([0.5, -0.0, 5e-324, 1e30, 1e308, math.inf, -math.inf, math.nan]),
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            " ",
            "\0",
            "\n",
            "a\rb",
            "\ud800",
            "\ufeff",
            "e\u0301",
            "👩\u200d🚀",
            "x" * 10_000,
            "../..",
            "/",
            "~",
            "none",
            "nan",
            "NaN",
            "1e999",
            "-1",
            "0",
            "1",
            "9" * 5000,
            "true",
            "cpu",
            "cuda:99",
            "up.0.1",
            "mid.0",
            "mid.9",
            "shapes",
            "shapes-turbo",
            "16:9",
            "nan:1",
            "0:0",
            "{}",
            "[",
            "%s",
            "${HOME}",
            "--help",
            "=",
            "a=b",
            "colour=red",
        ]
    ),
)
#: What JSON and TOML can hold.
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
#: What Python can hold.
PYTHON_VALUES = st.one_of(
    JSON_VALUES,
    st.builds(tuple, st.lists(NUMBERS, max_size=4)),
    st.sampled_from(
        [
            b"",
            b"\xff",
            1j,
            object(),
            int,
            math.floor,
            date(2026, 1, 1),
            Decimal("NaN"),
            Decimal("1e99"),
            Fraction(1, 3),
            Path("x"),
            Path("a\0b"),
            range(3),
            range(10**9),
            range(0),
            {1, 2},
            frozenset(),
            slice(3),
            np.float32("nan"),
            np.int64(-3),
            np.uint64(2**63),
            np.bool_(True),
            np.zeros((2, 2)),
            np.array([]),
            np.array([1, 2]),
            np.array("x"),
            np.array([None, "a"], dtype=object),
            np.datetime64("nat", "s"),
        ]
    ),
)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Inside, this process may take MEMORY bytes more than it has: what takes more is a MemoryError."""
    import resource

    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[5]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (taken + MEMORY, before[1]))
    try:
        with memory_limit.limited(f"{MEMORY // 3}"):  # what is asked for first, some of it taken twice
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def check_message(error: UnboxError, field: str) -> None:
    """A refusal is one line that names the field, and is short however long the value is."""
    text = str(error)
    assert text.strip()
    assert "\n" not in text
    assert len(text) < 1500, "the value is not cut"
    plain = text.replace("-", "_").lower()
    if "--memory-limit" not in text:  # which is of several fields together
        assert field.lower() in plain or field.rstrip("s").lower() in plain, f"{field} is not named: {text}"
    if isinstance(error, FieldError):
        assert error.rule in text


def finite(value: object) -> bool:
    """Whether every number in a value, however deep, is finite."""
    if isinstance(value, float | np.floating):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(finite(each) for each in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return all(finite(each) for each in value)
    return True
