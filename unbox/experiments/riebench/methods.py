"""What RIEBench compares: features carried between runs, random features, neurons, steering by whole
updates."""

from collections.abc import Callable, Mapping
from functools import partial

from unbox.edits import controlled
from unbox.experiments.riebench.interventions import PairedRuns, carry_features, carry_neurons, carry_updates
from unbox.experiments.riebench.riebench_settings import RiebenchSettings
from unbox.models.hooks import Attachable
from unbox.sae import SAE

Method = Callable[[PairedRuns], Attachable]

#: The rules of `interventions`, in the keys of results: those of other rules are not found.
METHOD_RULE = 2


def methods(saes: Mapping[str, SAE], settings: RiebenchSettings) -> dict[str, Method]:
    """Methods by name: from the recorded runs of an example to the edits of one."""
    found: dict[str, Method] = {}
    for m in settings.strengths:
        for count in settings.counts:
            carry = partial(carry_features, saes=saes, count=count, strength=m)
            found[f"sae {count} x {m:g}"] = carry
            found[f"random {count} x {m:g}"] = controlled(carry, settings.seed)
        for count in settings.neurons:
            over = settings.neuron_steps
            found[f"neurons {count} x {m:g}"] = partial(carry_neurons, count=count, strength=m, over=over)
    for m in settings.steering:
        found[f"steering x {m:g}"] = partial(carry_updates, strength=m)
    return found
