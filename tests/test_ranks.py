from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbox.errors import UnboxError
from unbox.ranks import Ranks, check_meeting_place, ranks

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def test_alone_where_nothing_is_said():
    assert ranks({}) == ranks({"RANK": "", "WORLD_SIZE": ""}) == Ranks(0, 1, 0)
    assert ranks({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Ranks(5, 8, 1)


@pytest.mark.parametrize(
    ("name", "said", "rule"),
    [
        ("RANK", "abc", "should be a whole number"),
        ("RANK", "1.0", "should be a whole number"),
        ("RANK", "-1", "should be at least 0"),
        ("RANK", "2", "should be less than WORLD_SIZE, which is 2"),
        ("RANK", "9" * 10_000, "should be less than 1,099,511,627,776"),
        ("WORLD_SIZE", "0", "should be at least 1"),
        ("WORLD_SIZE", "two", "should be a whole number"),
        ("LOCAL_RANK", "-3", "should be at least 0"),
        ("LOCAL_RANK", "٣", "should be a whole number"),
    ],
)
def test_what_cannot_be_is_named(name, said, rule):
    with pytest.raises(UnboxError, match=rf"the environment: {name} = .*{rule}"):
        ranks({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"} | {name: said})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MASTER_ADDR", ""),
        ("MASTER_PORT", ""),
        ("MASTER_PORT", "x"),
        ("MASTER_PORT", "99999"),
        ("MASTER_PORT", "0"),
    ],
)
def test_processes_that_could_not_meet_are_told(name, said):
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    check_meeting_place(place)
    with pytest.raises(UnboxError, match=name):
        check_meeting_place(place | {name: said})


@given(st.dictionaries(st.sampled_from(NAMES), st.text() | st.integers().map(str)))
def test_any_environment_is_read_or_refused(environment):
    for read in (ranks, check_meeting_place):
        with suppress(UnboxError):
            read(environment)
