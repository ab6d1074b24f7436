"""Adam's learning rate: its peak for an SAE and a budget, and the schedule: warm-up, plateau, decay."""

from unbox.sae.plan import Budget, Spec


def peak(budget: Budget, spec: Spec) -> float:
    """Learning rate of an SAE between warm-up and decay.

    Unless given: 2e-4 / sqrt(n / 16384) (Gao et al.), and in runs of under 10,000 steps up to four times as
    much, growing as 1 / sqrt(steps): measured on Shapes, where such runs are otherwise undertrained.
    """
    steps = max(1, budget.tokens // budget.batch_size)
    hurry = min(4.0, max(1.0, (10_000 / steps) ** 0.5))
    return spec.lr if spec.lr is not None else hurry * 2e-4 / (spec.latents / 16384) ** 0.5


def schedule(budget: Budget, done: int) -> float:
    """Factor on the peak after `done` rows: linear warm-up, a plateau, linear decay to 0."""
    up = (done + budget.batch_size) / budget.warmup if budget.warmup else 1.0
    down = (budget.tokens - done) / budget.decay if budget.decay else 1.0
    return max(0.0, min(1.0, up, down))
