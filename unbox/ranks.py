"""Which of several processes this one is, as `torchrun` says in the environment."""

import os
from collections.abc import Mapping
from dataclasses import fields

from unbox.errors import FieldError, UnboxError
from unbox.validation import Port, Text, Whole, behind, checked, validated

#: What the environment is called in messages.
DOOR = "the environment"


@validated
class Ranks:
    """This process among those that work together; alone where the environment says nothing."""

    rank: int = 0
    """Its number, from 0."""
    world: int = 1
    """How many there are."""
    local: int = 0
    """Its number on its machine, from 0: that of its GPU."""

    def __post_init__(self) -> None:
        names = {"rank": "RANK", "world": "WORLD_SIZE", "local": "LOCAL_RANK"}
        for field in fields(self):
            least, value = int(field.name == "world"), getattr(self, field.name)
            if value < least:
                raise FieldError("", names[field.name], value, f"should be at least {least}")
        if self.rank >= self.world:
            raise FieldError("", "RANK", self.rank, f"should be less than WORLD_SIZE, which is {self.world}")


def ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """What RANK, WORLD_SIZE and LOCAL_RANK say. Raises UnboxError, naming the variable, for anything else."""
    with behind(DOOR):
        rank, world, local = (
            _whole(name, environment.get(name) or usual)
            for name, usual in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
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
