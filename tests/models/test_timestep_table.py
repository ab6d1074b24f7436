"""Steps found in a scheduler's table from the place of what a UNet is given, without reading it."""

import pytest
import torch

from unbox.errors import UnboxError
from unbox.models.timestep_table import Place, TimestepTable

TIMESTEPS = torch.tensor([999.0, 749.25, 749.25, 499.5])
TABLE = TimestepTable.of(TIMESTEPS)


@pytest.mark.parametrize(
    "timestep",
    [
        TIMESTEPS[1],
        TIMESTEPS[2],
        TIMESTEPS[1:][0],
        next(iter(TIMESTEPS[2:])),
        TIMESTEPS[1].expand(6),
        TIMESTEPS[1:2],
        749.25,
        torch.tensor(749.25),
        torch.full((4,), 749.25),
    ],
)
def test_all_forms_of_a_timestep(timestep):
    assert TABLE.find(timestep) == Place(1, 749.25, 2)


def test_the_tables_own_entries_are_found_where_no_number_can_be_read():
    """On `meta` nothing has a value: only the place in memory tells entries apart."""
    table = TimestepTable(torch.empty(4, device="meta"), TABLE.values, None)
    timesteps = table.timesteps
    places = [table.find(t) for t in timesteps] + [table.find(timesteps[1:][2].expand(5))]
    assert [place.step for place in places] == [0, 1, 1, 2, 2]
    with pytest.raises(NotImplementedError):  # torch's own: another tensor's number is not there
        table.find(torch.empty((), device="meta"))


def test_a_table_that_changed_is_read_anew():
    timesteps = TIMESTEPS.clone()
    table = TimestepTable.of(timesteps)
    assert table.is_of(timesteps)
    assert not table.is_of(timesteps.clone())
    timesteps[0] = 5
    assert not table.is_of(timesteps)


def test_what_is_not_in_the_table_is_said():
    with pytest.raises(UnboxError, match=r"timestep 7, which is not one of .*\(999, 749.25, 499.5"):
        TABLE.find(7)
    with pytest.raises(UnboxError, match="different timesteps"):
        TABLE.find(TIMESTEPS)
