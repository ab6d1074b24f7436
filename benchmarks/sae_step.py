"""One training step of a top-k SAE: ours beside the real packages, at the paper's shapes and others.

    python benchmarks/sae_step.py                          every shape and package, AuxK off and on
    python benchmarks/sae_step.py --shapes paper --rounds 9
    python benchmarks/sae_step.py --python PEERS/bin/python
    python benchmarks/sae_step.py --shapes paper --variants topk jumprelu gated    ours beside each other

Every package runs its own step (forward, loss, backward, decoder projection and norm, Adam), in a process of
its own, on the same rows; peers in fp32 and under bf16 autocast, of which the faster counts. Packages that
are not installed where `--python` points are left out and named. With AuxK on, 5 % and
25 % of the latents are marked dead. `limit` is the encoder's product alone, in the precision that ours uses;
`bound` (on a CPU) all of the step's arithmetic, by `sae_bound.py`: products, gathers and passes.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peer_imports import stand_in

ROOT = Path(__file__).parents[1]

#: Name -> (d, n, k). The first is that of arXiv 2410.22366.
SHAPES = {
    "paper": (1280, 5120, 10),
    "paper-k160": (1280, 5120, 160),
    "wide": (1280, 20480, 32),
    "small": (640, 2560, 10),
    "demo": (128, 1024, 16),
}
#: Package's import name, by the name it is shown under.
PEERS = {
    "sparsify": "sparsify",
    "sae-lens": "sae_lens",
    "dictionary-learning": "dictionary_learning",
    "overcomplete": "overcomplete",
}
#: What is timed: a clock on the wall, or, on a machine with other work, this process's processor seconds.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
#: Parts of the latents that are marked dead with AuxK on.
DEAD = (0.05, 0.25)

Step = Callable[[Any], None]


def unbox_step(d: int, n: int, k: int, x: Any, dead: int, device: str, variant: str = "topk") -> Step:
    """Ours, as the trainer takes it."""

    from unbox.sae import ArrayRows, Spec
    from unbox.sae.plan import make_plan
    from unbox.sae.training_run import TrainingRun

    plan = make_plan([Spec("", k, n, variant)], tokens=10**12, batch_size=len(x), warmup=0, dead_after=10**11)
    fit = next(iter(TrainingRun(plan, {"": ArrayRows(x.cpu())}, device).fits.values()))
    look = fit._look_for_dead

    def marked() -> None:  # those that were marked stay dead, though some of them fire
        fit.silent[:dead] = 10**12
        look()

    fit._look_for_dead = marked
    marked()

    def step(rows: Any) -> None:
        fit.step(rows, len(rows), 1.0)

    return step


def sparsify_step(d: int, n: int, k: int, x: Any, dead: int, device: str) -> Step:
    """eai-sparsify: the order of `Trainer.fit`."""
    import torch
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(d, SparseCoderConfig(num_latents=n, k=k), device=device)
    adam = torch.optim.Adam(coder.parameters(), lr=1e-4, fused=True)
    mask = torch.arange(n, device=device) < dead

    def step(rows: Any) -> None:
        coder.set_decoder_norm_to_unit_norm()
        out = coder(rows, dead_mask=mask if dead else None)
        (out.fvu + out.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()

    return step


def saelens_step(d: int, n: int, k: int, x: Any, dead: int, device: str) -> Step:
    """sae-lens: the order of `SAETrainer._train_step`."""
    import torch
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d, d_sae=n, k=k, device=device))
    adam = torch.optim.Adam(sae.parameters(), lr=1e-4)
    mask = torch.arange(n, device=device) < dead

    def step(rows: Any) -> None:
        given = TrainStepInput(
            sae_in=rows,
            coefficients={},
            dead_neuron_mask=mask if dead else None,
            n_training_steps=1,
            is_logging_step=False,
        )
        out = sae.training_forward_pass(given)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        adam.step()
        adam.zero_grad()

    return step


def dictionary_learning_step(d: int, n: int, k: int, x: Any, dead: int, device: str) -> Step:
    """dictionary-learning: `TopKTrainer.update`."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=10**6, activation_dim=d, dict_size=n, k=k, layer=0, lm_name="none", lr=1e-4, device=device
    )
    trainer.auxk_alpha = 1 / 32 if dead else 0.0

    def step(rows: Any) -> None:
        trainer.num_tokens_since_fired[:dead] = 10**9
        trainer.update(1, rows)

    return step


def overcomplete_step(d: int, n: int, k: int, x: Any, dead: int, device: str) -> Step:
    """overcomplete: the order of `train_sae`. Its AuxK is over the losing half of all latents."""
    import torch
    from overcomplete.sae import TopKSAE
    from overcomplete.sae.losses import top_k_auxiliary_loss

    sae = TopKSAE(d, n, top_k=k, device=device)
    adam = torch.optim.Adam(sae.parameters(), lr=1e-4)

    def step(rows: Any) -> None:
        adam.zero_grad()
        pre, codes, found = sae(rows)
        dictionary = sae.get_dictionary()
        if dead:
            loss = top_k_auxiliary_loss(rows, found, pre, codes, dictionary)
        else:
            loss = (rows - found).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        adam.step()

    return step


def limit_step(d: int, n: int, k: int, x: Any, dead: int, device: str) -> Step:
    """The encoder's product alone: what no step can do without."""
    import torch

    from unbox.sae.precision import low_precision

    dtype = low_precision("auto", torch.device(device))
    weight = torch.randn(n, d, device=device).to(dtype)

    def step(rows: Any) -> None:
        rows.to(dtype) @ weight.T

    return step


def bound_step(d: int, n: int, k: int, x: Any, dead: int, device: str) -> Step:
    """The step's arithmetic alone: products, gathers and passes."""
    import sae_bound

    return sae_bound.bound_step(d, n, k, x, dead, device)


STEPS = {
    "unbox": unbox_step,
    "limit": limit_step,
    "bound": bound_step,
    "sparsify": sparsify_step,
    "sae-lens": saelens_step,
    "dictionary-learning": dictionary_learning_step,
    "overcomplete": overcomplete_step,
}


def child(task: dict[str, Any]) -> dict[str, Any]:
    """Time one package at one shape in this process."""
    import torch

    warnings.simplefilter("ignore")
    stand_in()
    torch.manual_seed(0)
    device, (d, n, k), batch = task["device"], task["shape"], task["batch"]
    # Rows near a few hundred directions, off centre, as updates are.
    x = torch.randn(batch, 256) @ torch.randn(256, d) / 16 + torch.randn(d)
    x = x.to(device)
    dead = int(n * task["dead"])
    if variant := task.get("variant"):
        step = unbox_step(d, n, k, x, dead, device, variant)
    else:
        step = STEPS[task["name"]](d, n, k, x, dead, device)
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=task["bf16"])
    seconds, clock = [], CLOCKS[task["clock"]]
    with autocast:
        for _ in range(task["rounds"] + 2):
            _wait(device)
            began = clock()
            step(x)
            _wait(device)
            seconds.append(clock() - began)
    peak = (
        torch.cuda.max_memory_allocated()
        if device.startswith("cuda")
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "seconds": seconds[2:],
        "peak": peak,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def spawn(python: str, task: dict[str, Any]) -> dict[str, Any] | None:
    """The child's figures, or None where it failed; its last line of error is shown."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "WANDB_MODE": "disabled"}
    if task["device"] == "cpu":
        environment["SPARSIFY_DISABLE_TRITON"] = "1"  # it takes Triton's kernel wherever Triton is installed
    command = [python, str(Path(__file__).resolve()), "--child", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(
            f"  {task['name']} failed: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}",
            file=sys.stderr,
        )
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def installed(python: str) -> list[str]:
    """The peers that an interpreter has."""
    code = (
        "import importlib.util as u, json; "
        f"print(json.dumps([n for n, m in {PEERS!r}.items() if u.find_spec(m)]))"
    )
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def best(runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The faster of the precisions, the passes of each taken together."""
    pooled = []
    for bf16 in (False, True):
        if of := [run for run in runs if run["bf16"] is bf16]:
            seconds = [second for run in of for second in run["seconds"]]
            pooled.append({"bf16": bf16, "seconds": seconds, "peak": max(run["peak"] for run in of)})
    return min(pooled, key=lambda result: statistics.median(result["seconds"]), default=None)


def row(name: str, result: dict[str, Any], batch: int, reference: float, shown: str = "") -> str:
    """One line of the table, under a package's name or the one that is `shown`."""
    median = statistics.median(result["seconds"])
    spread = (max(result["seconds"]) - min(result["seconds"])) / 2
    precision = "" if name in ("unbox", "limit", "bound") else (" (bf16)" if result["bf16"] else " (fp32)")
    return (
        f"| {shown or name}{precision} | {median * 1e3:.1f} ± {spread * 1e3:.1f} | {batch / median:,.0f} | "
        f"{result['peak'] / 2**20:,.0f} | {reference / median:.2f} |"
    )


def measure(options: argparse.Namespace, shape: str, dead: float, peers: list[str]) -> list[str]:
    """The table of one shape and part of the latents that is dead."""
    task = {
        "shape": SHAPES[shape],
        "dead": dead,
        "batch": options.batch,
        "rounds": options.rounds,
        "device": options.device,
        "clock": options.clock,
    }
    own = ("unbox", "limit", "bound") if options.device == "cpu" else ("unbox", "limit")
    turns = [(name, bf16) for name in peers for bf16 in (False, True)] + [(name, False) for name in own]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name, _ in turns}
    for _ in range(options.passes):  # all in turn, so that a slow minute of the machine is not one package's
        for name, bf16 in turns:
            if result := spawn(options.python, {**task, "name": name, "bf16": bf16}):
                runs[name].append({**result, "bf16": bf16})
    timed = {name: result for name, of in runs.items() if (result := best(of)) is not None}
    fastest = min(
        (statistics.median(timed[name]["seconds"]) for name in peers if name in timed), default=float("nan")
    )
    d, n, k = SHAPES[shape]
    lines = [
        f"\n### d = {d}, n = {n}, k = {k}, AuxK {f'on, {dead:.0%} dead' if dead else 'off'}\n",
        "| package | ms a step | tokens/s | peak MiB | times the fastest peer |",
        "| --- | --- | --- | --- | --- |",
    ]
    order = (*own, *sorted(peers))
    return lines + [row(name, timed[name], options.batch, fastest) for name in order if name in timed]


def measure_variants(options: argparse.Namespace, shape: str) -> list[str]:
    """The table of our own variants at one shape, AuxK off, beside the first of them."""
    task = {
        "name": "unbox",
        "shape": SHAPES[shape],
        "dead": 0.0,
        "bf16": False,
        "batch": options.batch,
        "rounds": options.rounds,
        "device": options.device,
        "clock": options.clock,
    }
    timed: dict[str, list[dict[str, Any]]] = {name: [] for name in options.variants}
    for _ in range(options.passes):
        for name, runs in timed.items():
            if result := spawn(options.python, {**task, "variant": name}):
                runs.append({**result, "bf16": False})
    found = {name: result for name, runs in timed.items() if (result := best(runs)) is not None}
    d, n, k = SHAPES[shape]
    first = next(iter(found), "")
    lines = [
        f"\n### Variants at d = {d}, n = {n}, k = {k}, AuxK off\n",
        f"| variant | ms a step | tokens/s | peak MiB | times the speed of {first} |",
        "| --- | --- | --- | --- | --- |",
    ]
    reference = statistics.median(found[first]["seconds"]) if found else float("nan")
    return lines + [row("unbox", result, options.batch, reference, name) for name, result in found.items()]


def main() -> int:
    """Measure what is asked, print tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--aux", choices=("off", "on", "both"), default="both")
    parser.add_argument(
        "--dead", nargs="+", type=float, default=DEAD, help="parts of the latents that are dead with AuxK on"
    )
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7, help="steps that are timed in each pass")
    parser.add_argument("--passes", type=int, default=2, help="processes of each package, in turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument(
        "--variants", nargs="+", help="our own variants (topk, batchtopk, ...) beside each other, no peers"
    )
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers and torch")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(json.loads(options.child))))
        return 0
    there = installed(options.python)
    peers = [name for name in options.peers if name in there]
    missing = sorted(set(options.peers) - set(there))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, batch {options.batch}, "
        f"median of {options.passes} x {options.rounds} steps ± half the range, {options.clock} seconds"
        + (f"; not installed: {', '.join(missing)}" if missing else "")
    )
    for shape in options.shapes:
        if options.variants:
            print("\n".join(measure_variants(options, shape)), flush=True)
            continue
        for dead in {"off": (0.0,), "on": options.dead, "both": (0.0, *options.dead)}[options.aux]:
            print("\n".join(measure(options, shape, dead, peers)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
