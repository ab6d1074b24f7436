"""Sections of `gpu.py`: training sparse autoencoders."""

import contextlib
import importlib.util
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sae_step as steps
import torch
from gpu_setting import Setting, shown
from peer_imports import stand_in

#: (d, n, k) of the SAE steps; the first is the paper's.
SHAPES = ((1280, 5120, 10), (1280, 5120, 160), (1280, 20480, 32), (1280, 131072, 32))
TINY_SHAPES = ((32, 128, 4),)


def sae_step(setting: Setting) -> Iterator[str]:
    """One training step beside every peer installed, AuxK off and on; peers in fp32, TF32 and bf16 autocast,
    the fastest counts."""
    stood_in = stand_in()
    os.environ.setdefault("WANDB_MODE", "disabled")
    batch = 64 if setting.tiny else 4096
    names = ["unbox", *(name for name, module in steps.PEERS.items() if importlib.util.find_spec(module))]
    yield "| d, n, k | AuxK | package | ms a step | tokens/s | GiB | times the fastest peer |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for shape in TINY_SHAPES if setting.tiny else SHAPES:
        for aux in (False, True):
            found: dict[str, tuple[str, list[float], int]] = {}
            for name in names:
                for precision in ("auto",) if name == "unbox" else ("tf32", "bf16"):
                    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
                        warnings.simplefilter("ignore")
                        try:
                            told = _peer(setting, steps.STEPS[name], shape, aux, precision, batch)
                        except (RuntimeError, ImportError, TypeError, AttributeError, ValueError) as error:
                            print(
                                f"{name} {shape} {precision}: {type(error).__name__}: {error}",
                                file=sys.stderr,
                            )
                            continue
                    if name not in found or statistics.median(told[1]) < statistics.median(found[name][1]):
                        found[name] = told
            peers = [statistics.median(each[1]) for name, each in found.items() if name != "unbox"]
            for name, (precision, seconds, peak) in found.items():
                middle = statistics.median(seconds)
                ratio = f"{min(peers) / middle:.2f}" if peers else "-"
                yield (
                    f"| {', '.join(map(str, shape))} | {'on' if aux else 'off'} | {name} ({precision}) | "
                    f"{shown(seconds)} | {batch / middle:,.0f} | {peak / 2**30:.2f} | {ratio} |"
                )
    if stood_in.stood_in:
        yield (
            "\nEmpty modules stood for: "
            + ", ".join(sorted({m.partition(".")[0] for m in stood_in.stood_in}))
            + "."
        )


def _peer(
    setting: Setting, make: Any, shape: tuple[int, int, int], aux: bool, precision: str, batch: int
) -> tuple[str, list[float], int]:
    """Precision, seconds of each step and peak bytes of one package."""
    d, n, k = shape
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    x = (torch.randn(batch, 256) @ torch.randn(256, d) / 16 + torch.randn(d)).to(setting.device)
    if setting.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        step = make(d, n, k, x, n // 4 if aux else 0, str(setting.device))
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=precision == "bf16"):
            seconds = setting.seconds(lambda: step(x), warm=8)
        return precision, seconds, torch.cuda.max_memory_allocated() if setting.cuda else 0
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def sae_kernels(setting: Setting) -> Iterator[str]:
    """Parts of the training step one by one, and whole steps, launch by launch and captured; microseconds."""
    from unbox.sae.gpu import kernels_run_on

    if not kernels_run_on(setting.device):
        yield "There is no Triton for this device."
        return
    from unbox.sae.gpu import launch
    from unbox.sae.gpu.step import GPUStep

    batch, device = (64 if setting.tiny else 4096), setting.device
    parts = ("encoder's product", "torch.topk", "top-k", "forward", "sort by latent", "step", "captured step")
    yield f"| d, n, k | dense | {' | '.join(parts)} |"
    yield "| --- " * (len(parts) + 2) + "|"
    for d, n, k in TINY_SHAPES if setting.tiny else SHAPES:
        torch.manual_seed(0)
        x = torch.randn(batch, 256, device=device) @ torch.randn(256, d, device=device) / 16
        rows = torch.nn.functional.normalize(torch.randn(n, d, device=device), dim=1)
        w = {"W_enc": rows, "W_dec": rows.clone(), "b_pre": x.mean(0), "b_lat": torch.zeros(n, device=device)}
        moments = {name: (torch.zeros_like(t), torch.zeros_like(t)) for name, t in w.items()}
        factor, numbers = 2 / batch / 1000, torch.tensor([1e-4, 5.0], device=device).unbind()
        for dense in (False, True) if batch * n <= 1 << 27 else (False,):
            step = GPUStep(w, moments, k, batch, (0.9, 0.999), 1e-8, dense=dense)
            low = (x - w["b_pre"]).to(step.low)
            pre = low @ step.low_encoder.T
            chosen = launch.topk(pre, k)[1]
            found = launch.forward(x, w, chosen, factor)

            def whole(step: GPUStep = step, x: torch.Tensor = x) -> None:
                step.backward_and_update(x, step.forward(x, factor), *numbers)  # noqa: B023

            runs: list[Callable[[], object]] = [
                lambda: low @ step.low_encoder.T,  # noqa: B023
                lambda: pre.topk(k),  # noqa: B023
                lambda: launch.topk(pre, k),  # noqa: B023
                lambda: launch.forward(x, w, chosen, factor),  # noqa: B023
                lambda: launch.by_latent(found, n),  # noqa: B023
                whole,
            ]
            if setting.cuda:
                whole()
                setting.wait()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    whole()
                runs.append(graph.replay)
            told = [f"{statistics.median(setting.seconds(run)) * 1e6:.0f}" for run in runs]
            yield f"| {d}, {n}, {k} | {'yes' if dense else 'no'} | {' | '.join(told)} |"


def training(setting: Setting) -> Iterator[str]:
    """Rows a second of training from a store in float16 on disk, one SAE and 24 on one pass."""
    from activation_store import Sample, Schema, Store, Writer
    from unbox.sae import Spec
    from unbox.sae.plan import make_plan
    from unbox.sae.training_run import TrainingRun

    d, side, images, batch = (32, 4, 40, 64) if setting.tiny else (1280, 16, 1600, 4096)
    widths = (64, 128) if setting.tiny else (640, 5120)
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(64, d)).astype(np.float32) / 8
    yield "| SAEs | rows/s | ms a step | ms an SAE |"
    yield "| --- | --- | --- | --- |"
    with tempfile.TemporaryDirectory() as place:
        schema = Schema({"up.0.1": (side, side, d)}, (0,), ("cond",), dtype="float16")
        with Writer(f"{place}/acts", schema) as writer:
            for start in range(0, images, 40):
                rows = rng.normal(size=(40, 1, 1, side, side, 64)).astype(np.float32) @ basis + 1
                some = [Sample(i, f"number {i}", i) for i in range(start, start + 40)]
                writer.append(some, {"up.0.1": rows.astype(np.float16)})
        source = Store.open(f"{place}/acts")["up.0.1"]
        active = (2, 4) if setting.tiny else (5, 10, 20, 40, 80, 160)
        several = [Spec("up.0.1", k, n, seed=s) for k in active for n in widths for s in (0, 1)]
        for specs in ([Spec("up.0.1", active[1], widths[1])], several):
            plan = make_plan(specs, tokens=10**9, batch_size=batch, warmup=0, dead_after=10**8)
            run = TrainingRun(plan, {"up.0.1": source}, setting.device)
            seconds = setting.seconds(run.advance, 10 if setting.tiny else 100, warm=20)
            each = sum(seconds) / len(seconds)
            yield f"| {len(specs)} | {batch / each:,.0f} | {each * 1e3:.2f} | {each / len(specs) * 1e3:.2f} |"
