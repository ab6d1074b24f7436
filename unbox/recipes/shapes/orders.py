"""The orders in which the blocks of the Shapes UNet come, as data.

A block keeps what it was there to learn first (`docs/LOG.md`): what each draws is decided by when it comes
and by which words captions then mention.
"""

from dataclasses import dataclass

#: The blocks of the outer two levels.
SHALLOW = ("down.1.0", "down.1.1", "up.1.0", "up.1.1", "up.1.2")


@dataclass(frozen=True)
class GrowthStage:
    """Blocks that come, and how the UNet trains with them."""

    blocks: tuple[str, ...]
    share: float
    """Of the base's minutes, at most."""
    rate: float
    words: tuple[str, ...] = ()
    """Factors that captions may now mention besides those of the stages before; none anywhere: all,
    always."""
    until: float | None = None
    """Share of each of `words` (of everything, where there are none) right at one step at which the next
    stage comes; None: all of its time."""
    frozen: bool = False
    """Whether the blocks that were there before keep their weights."""
    alone: bool = False
    """Whether nothing but the blocks that come is trained, of the whole UNet."""


@dataclass(frozen=True)
class Order:
    """Stages, and the blocks that are there from the start with the weights that the run begins with; the
    others then come anew."""

    stages: tuple[GrowthStage, ...]
    kept: tuple[str, ...] = ()


_LAST = (GrowthStage(("down.2.0", "up.0.2"), 0.07, 2e-3), GrowthStage(SHALLOW, 0.4, 2e-3))


def _by_words(frozen: bool, fourth: float) -> Order:
    """Each block comes together with the words of some factors: what it draws is what it was there to
    learn."""
    return Order((
        GrowthStage(("down.2.1",), 0.12, 3e-3, ("position", "relation", "size"), 0.95),
        GrowthStage(("mid.0",), 0.12, 3e-3, ("background", "light"), 0.95, frozen),
        GrowthStage(("up.0.1",), 0.14, 3e-3, ("colour", "texture"), 0.95, frozen),
        GrowthStage(("up.0.0",), fourth, 3e-3, ("shape",), None, frozen),
        *_LAST,
    ))  # fmt: skip


#: The orders in which blocks come, tried against each other.
ORDERS: dict[str, Order] = {
    "words-frozen": _by_words(True, 0.15),
    "words": _by_words(False, 0.15),
    "middle-first": Order((
        GrowthStage(("mid.0", "up.0.0"), 0.26, 3e-3, until=0.75),
        GrowthStage(("down.2.1", "up.0.1"), 0.27, 3e-3), *_LAST,
    )),
    "one-by-one": Order((
        GrowthStage(("mid.0",), 0.13, 3e-3, until=0.55), GrowthStage(("down.2.1",), 0.12, 3e-3, until=0.7),
        GrowthStage(("up.0.0",), 0.13, 3e-3, until=0.8), GrowthStage(("up.0.1",), 0.15, 3e-3), *_LAST,
    )),
    "four-first": Order((GrowthStage(("down.2.1", "mid.0", "up.0.0", "up.0.1"), 0.53, 3e-3), *_LAST)),
    # Goes on from `one-by-one`, where mid.0 draws colour and texture and up.0.1 nothing.
    "colour-moved": Order(
        (
            GrowthStage(
                ("mid.0",), 0.2, 3e-3, ("position", "relation", "size", "background", "light", "shape"),
                0.9, alone=True,
            ),
            GrowthStage(("up.0.1",), 0.2, 3e-3, ("colour", "texture"), 0.95, alone=True),
            GrowthStage(("down.2.0", "up.0.2", *SHALLOW), 0.6, 1e-3),
        ),
        kept=("down.2.1", "up.0.0"),
    ),
    # Nothing grows: the finish of a finished model goes on.
    "again": Order((), kept=("down.2.0", "down.2.1", "mid.0", "up.0.0", "up.0.1", "up.0.2", *SHALLOW)),
}  # fmt: skip


def said_by(order: str, i: int) -> tuple[str, ...]:
    """The factors that captions may mention in a stage; none named: all."""
    stages = ORDERS[order].stages
    said = tuple(word for stage in stages[: i + 1] for word in stage.words)
    every = {word for stage in stages for word in stage.words}
    return () if set(said) == every else said
