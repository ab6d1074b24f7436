"""Held-out FVU at equal tokens: ours, the paper's recipe, and sae-lens, on the same rows.

    python benchmarks/sae_quality.py --store acts/ --held-out other-acts/ --block up.1.1 --k 8 --latents 512
    python benchmarks/sae_quality.py                       # rows with a planted dictionary

Every method sees the same batches in the same order, and the same held-out rows. Each learning rate of the
grid is tried with the first seed; the best goes on to the other seeds, so no method is held back by its
default. `ours` has the trainer's schedule; `paper` is arXiv 2410.22366's recipe in plain dense autograd
(constant rate, unscaled rows, AuxK after `dead_after` rows); `sae-lens` is its TopKTrainingSAE with Adam and
our schedule, on scaled rows, its own AuxK. Prints mean FVU over seeds with a 95 % t interval.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from peer_imports import stand_in
from scipy import stats
from torch import Tensor

from unbox.sae import ArrayRows, Spec
from unbox.sae.fit import steps
from unbox.sae.initialization import directions, geometric_median
from unbox.sae.learning_rate import schedule
from unbox.sae.plan import make_plan
from unbox.sae.train_step import BETAS, EPS
from unbox.sae.training_run import TrainingRun

#: Learning rates tried, as multiples of 2e-4 / sqrt(n / 16384).
GRID = (3.0, 10.0, 30.0)

Reconstruct = Callable[[Tensor], Tensor]


def planted(rows: int, d: int, atoms: int, active: int, seed: int) -> np.ndarray:
    """Sparse sums of fixed unit atoms of unequal frequency, with noise and a mean."""
    fixed = np.random.default_rng(0)
    dictionary = fixed.normal(size=(atoms, d))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    mean, weights = fixed.normal(size=d), 1 / np.arange(1, atoms + 1) ** 0.7
    rng = np.random.default_rng(seed + 1)
    keys = rng.random((rows, atoms)) ** (1 / weights)
    chosen = keys.argpartition(-active, axis=1)[:, -active:]
    values = rng.exponential(1.0, (rows, active))
    x = np.einsum("nk,nkd->nd", values, dictionary[chosen]) + mean + 0.05 * rng.normal(size=(rows, d))
    return x.astype(np.float32)


def batches(rows: Any, options: argparse.Namespace) -> Iterator[Tensor]:
    """The batches that the trainer takes, up to the tokens asked for."""
    left = options.tokens
    for batch in rows.batches(options.batch, seed=0, epochs=-(-options.tokens // len(rows))):
        yield torch.from_numpy(np.array(batch[:left]))
        left -= len(batch)
        if left <= 0:
            return


def budget(options: argparse.Namespace) -> Any:
    """Warm-up, decay and dead-latent window: those of our trainer, for everyone."""
    return make_plan([], tokens=options.tokens, batch_size=options.batch).budget(options.tokens)


def ours(rows: Any, lr: float, seed: int, options: argparse.Namespace) -> Reconstruct:
    """The trainer."""
    spec = Spec("", options.k, options.latents, seed=seed, lr=lr)
    run = TrainingRun(make_plan([spec], tokens=options.tokens, batch_size=options.batch), {"": rows})
    steps(run, False)
    sae = run.fits[spec.title].sae("")
    return lambda x: sae.decode(sae.encode(x))


def paper(rows: Any, lr: float, seed: int, options: argparse.Namespace) -> Reconstruct:
    """The paper's recipe, dense and differentiated by autograd."""
    n, d, k, plan = options.latents, rows.width, options.k, budget(options)
    first = torch.from_numpy(np.array(rows.sample(32_768, 0)))
    variance, mean = first.var(0, correction=0).sum(), first.mean(0)
    W_dec = directions(n, d, seed).requires_grad_()
    W_enc, b_lat = W_dec.detach().clone().requires_grad_(), torch.zeros(n, requires_grad=True)
    b_pre = (mean + geometric_median(first - mean)).requires_grad_()
    adam = torch.optim.Adam([W_enc, W_dec, b_pre, b_lat], lr=lr, betas=BETAS, eps=EPS)
    silent = torch.zeros(n, dtype=torch.int64)

    def codes(x: Tensor) -> tuple[Tensor, Tensor]:
        pre = (x - b_pre) @ W_enc.T + b_lat
        top = pre.topk(k)
        return pre, torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())

    for x in batches(rows, options):
        pre, z = codes(x)
        error = x - (z @ W_dec + b_pre)
        loss = error.square().sum() / (len(x) * variance)
        dead = (silent > plan.dead_after).nonzero().squeeze(1)
        if len(dead):
            top = pre[:, dead].topk(min(len(dead), d // 2, 256))
            aux = torch.zeros(len(x), len(dead)).scatter(1, top.indices, top.values.relu()) @ W_dec[dead]
            target = error.detach()
            spread = (target - target.mean(0)).square().sum()
            loss = loss + (aux - target).square().sum() / spread / 32
        adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            assert W_dec.grad is not None
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
            adam.step()
            W_dec /= W_dec.norm(dim=1, keepdim=True)
            silent += len(x)
            silent[(z > 0).any(0)] = 0
    return lambda x: (codes(x)[1] @ W_dec + b_pre).detach()


def saelens(rows: Any, lr: float, seed: int, options: argparse.Namespace) -> Reconstruct:
    """sae-lens' own SAE and losses, in the order of its trainer's step."""
    stand_in()
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    torch.manual_seed(seed)
    plan = budget(options)
    first = torch.from_numpy(np.array(rows.sample(32_768, 0)))
    scale = (rows.width / first.var(0, correction=0).sum()).sqrt()
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=rows.width, d_sae=options.latents, k=options.k))
    with torch.no_grad():
        sae.b_dec.copy_(first.mean(0) * scale)
    adam = torch.optim.Adam(sae.parameters(), lr=lr)
    silent, done = torch.zeros(options.latents, dtype=torch.int64), 0
    for x in batches(rows, options):
        dead = silent > plan.dead_after
        given = TrainStepInput(
            sae_in=x * scale,
            coefficients={},
            dead_neuron_mask=dead if bool(dead.any()) else None,
            n_training_steps=1,
            is_logging_step=False,
        )
        out = sae.training_forward_pass(given)
        adam.zero_grad()
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        for part in adam.param_groups:
            part["lr"] = lr * schedule(plan, done)
        adam.step()
        done += len(x)
        silent += len(x)
        silent[(out.feature_acts > 0).any(0)] = 0
    return lambda x: (sae.decode(sae.encode(x * scale)) / scale).detach()


METHODS = {"ours": ours, "paper": paper, "sae-lens": saelens}


def held_out_fvu(reconstruct: Reconstruct, x: Tensor) -> float:
    """sum |x - x^|^2 / sum |x - mean x|^2."""
    errors = sum(float((part - reconstruct(part)).double().square().sum()) for part in x.split(4096))
    return errors / float((x.double() - x.double().mean(0)).square().sum())


def compare(name: str, rows: Any, test: Tensor, options: argparse.Namespace) -> str:
    """One line of the table."""
    base = 2e-4 / (options.latents / 16384) ** 0.5
    method = METHODS[name]
    first = {m: held_out_fvu(method(rows, base * m, 0, options), test) for m in GRID}
    best = min(first, key=lambda m: first[m])
    found = [first[best]]
    found += [
        held_out_fvu(method(rows, base * best, seed, options), test) for seed in range(1, options.seeds)
    ]
    half = (
        stats.t.ppf(0.975, len(found) - 1) * np.std(found, ddof=1) / len(found) ** 0.5
        if len(found) > 1
        else 0
    )
    tried = ", ".join(f"{base * m:.2g}: {value:.4f}" for m, value in first.items())
    return f"| {name} | {np.mean(found):.4f} ± {half:.4f} | {base * best:.2g} | {tried} |"


def main() -> int:
    """Compare the methods, print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", help="store to train on; without one, planted rows")
    parser.add_argument("--held-out", help="store to test on")
    parser.add_argument("--block")
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--latents", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.store:
        from activation_store import Store

        rows: Any = Store.open(options.store)[options.block]
        test = torch.from_numpy(Store.open(options.held_out)[options.block].sample(65_536, 0))
    else:
        rows = ArrayRows(planted(200_000, 64, 256, 8, 0))
        test = torch.from_numpy(planted(20_000, 64, 256, 8, 1))
    print(
        f"d = {rows.width}, n = {options.latents}, k = {options.k}, {options.tokens:,} rows in batches of "
        f"{options.batch}, {options.seeds} seeds, {len(test):,} held-out rows\n"
    )
    print("| method | held-out FVU, mean and 95 % interval | best rate | FVU of the first seed by rate |")
    print("| --- | --- | --- | --- |")
    for name in options.methods:
        print(compare(name, rows, test, options), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
