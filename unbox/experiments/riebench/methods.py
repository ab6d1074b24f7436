"""What RIEBench compares: features carried between runs, random features, neurons, steering vectors."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from einops import rearrange

from unbox.edit import Edits
from unbox.edits import controlled, neurons
from unbox.edits.transport import UpdatePair, steer, transport
from unbox.experiments.riebench.riebench_settings import RiebenchSettings
from unbox.sae import SAE

Method = Callable[[UpdatePair], Edits]


def methods(saes: Mapping[str, SAE], settings: RiebenchSettings) -> dict[str, Method]:
    """Methods by name: from the recorded updates of two runs to the edits of one."""
    found: dict[str, Method] = {}
    for m in settings.strengths:
        for count in settings.counts:
            carry: Method = partial(transport, saes=saes, count=count, strength=m)
            found[f"sae {count} x {m:g}"] = carry
            found[f"random {count} x {m:g}"] = controlled(carry, settings.seed)
        for count in settings.neurons:
            found[f"neurons {count} x {m:g}"] = partial(_neurons, tuple(saes), count, m)
    for m in settings.steering:
        found[f"steering x {m:g}"] = partial(steer, blocks=tuple(saes), strength=m)
    return found


def _neurons(blocks: tuple[str, ...], count: int, strength: float, pair: UpdatePair) -> Edits:
    """Transport of channels, about their mean over both runs."""
    bases = {}
    for block in blocks:
        both = np.stack([pair.donor[block], pair.original[block]])
        bases[block] = neurons(block, rearrange(both, "run step y x d -> (run step y x) d"))
    return transport(pair, bases, count, strength)
