"""A comparison in a few lines, for the terminal."""

from collections.abc import Mapping
from typing import Any


def said(figures: Mapping[str, Any]) -> list[str]:
    """A line for each block and system: how much is explained, and how many features moved."""
    lines = []
    for block, of in figures["blocks"].items():
        first_set, by_system = next(iter(of["explained"].items()))
        told = ", ".join(f"{name} {each['fvu']:.3f}" for name, each in by_system.items())
        lines.append(f"{block}: FVU of the {first_set} SAE: {told}")
        chance = of["changes"]["random split"]
        for name, counts in of["changes"].items():
            if name != "random split":
                lines.append(
                    f"  {name}: {counts['gained']} features gained and {counts['lost']} lost (q < .05) of "
                    f"{chance['features']}; in a random split {chance['listed']:.1f}"
                )
    return lines
