"""Which of several processes this one is, as `torchrun` says in the environment."""

import os
from collections.abc import Mapping

from unbox.errors import FieldError, UnboxError
from unbox.validation import Count, Index, Port, Text, Whole, behind, checked, validated

#: What the environment is called in messages.
DOOR = "the environment"


@validated
class Ranks:
    """This process among those that work together; alone where the environment says nothing."""

    rank: Index = 0
    """Its number, from 0."""
    world: Count = 1
    """How many there are."""
    local: Index = 0
    """Its number on its machine, from 0: that of its GPU."""

    def __post_init__(self) -> None:
        if self.rank >= self.world:
            raise FieldError("", "RANK", self.rank, f"should be less than WORLD_SIZE, which is {self.world}")


def ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """What RANK, WORLD_SIZE and LOCAL_RANK say. Raises UnboxError, naming the variable, for anything else."""
    rank, world, local = (
        checked(rule, name, _whole(name, environment.get(name) or usual), DOOR)
        for name, rule, usual in (
            ("RANK", Index, "0"),
            ("WORLD_SIZE", Count, "1"),
            ("LOCAL_RANK", Index, "0"),
        )
    )
    with behind(DOOR):
        return Ranks(rank, world, local)


def check_meeting_place(environment: Mapping[str, str] = os.environ) -> None:
    """Raise UnboxError where several processes could not find each other."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not environment.get(name):
            world = environment.get("WORLD_SIZE")
            raise UnboxError(
                f"WORLD_SIZE is {world}, but {name} is not set: start the processes with torchrun, or unset "
                "RANK and WORLD_SIZE"
            )
    checked(Port, "MASTER_PORT", _whole("MASTER_PORT", environment["MASTER_PORT"]), DOOR)
    checked(Text, "MASTER_ADDR", environment["MASTER_ADDR"], DOOR)


def _whole(name: str, text: str) -> int:
    if not (text.strip().removeprefix("-").isascii() and text.strip().removeprefix("-").isdigit()):
        raise FieldError(DOOR, name, text, "should be a whole number")
    return checked(Whole, name, int(text[:20]), DOOR)
