"""What is said of a plan before its training begins: what it lacks, and what it takes too much of."""

from collections.abc import Mapping

import torch

from activation_store.batches import POOL_BYTES
from unbox.errors import UnboxError
from unbox.memory_limit import require
from unbox.sae.plan import LEARNT_THRESHOLDS, Plan
from unbox.sae.row_source import RowSource, source_of
from unbox.sae.sparse import SLICE_ELSEWHERE


def check_plan(
    plan: Plan, sources: Mapping[str, RowSource], device: torch.device, processes: int = 1
) -> None:
    """Raises UnboxError for a plan without SAEs, for blocks without rows, and for what needs more memory than
    a request may take, or than the GPU has."""
    if not plan.saes:
        raise UnboxError("no SAE to train: the plan names none")
    learnt = [spec.title for spec in plan.saes if spec.variant in LEARNT_THRESHOLDS]
    if plan.freeze_encoder and learnt:
        raise UnboxError(
            f"freeze_encoder: {learnt[0]} would learn thresholds, which are the encoder's; with another "
            "variant the thresholds of the SAE to begin from stay"
        )
    widths = {spec.block: source_of(sources, spec.block).width for spec in plan.saes}
    size, what = plan.memory(widths, processes), f"training {', '.join(plan.names()[:3])}"
    if len(plan.saes) > 3:
        what += f" and {len(plan.saes) - 3:,} more together"
    if device.type != "cuda":
        require(size, what)
        return
    # Pre-activations in bf16, and for AuxK three more arrays over the dead; of each block's rows two pools.
    most = max(spec.latents for spec in plan.saes) * plan.batch_size
    size += 8 * min(most, SLICE_ELSEWHERE) + 2 * POOL_BYTES * len(widths)
    if size > (total := torch.cuda.get_device_properties(device).total_memory):
        raise UnboxError(
            f"{what} would take {size:.3g} bytes of the GPU's {total:.3g}: train fewer SAEs at a time, or "
            "share their latents among several GPUs (--share latents)"
        )


def check_trained(plan: Plan, steps: Mapping[str, int]) -> None:
    """Raises UnboxError for an SAE that took no step: all its rows were of extreme norm."""
    if untrained := [name for name, count in steps.items() if not count]:
        raise UnboxError(
            f"{untrained[0]} took no step: every row was left out, of a norm over {plan.max_norm or 0:g} "
            "times the median (max_norm)"
        )
