import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.sae.memory_peak import CLEAR, peak
from tests.sae.worlds import noise, planted
from unbox.errors import UnboxError
from unbox.run_folder import LOCK, run_folder
from unbox.sae import (
    SAE,
    VARIANTS,
    ArrayRows,
    Plan,
    Spec,
    evaluate,
    fit,
    load_saes,
    sparse,
    specs,
    train,
)
from unbox.sae.checkpoint import CheckpointWriter, latest, read_starts, restore
from unbox.sae.fit import steps
from unbox.sae.objective import NESTED_CODES
from unbox.sae.plan import make_plan
from unbox.sae.train_step import LOOK
from unbox.sae.train_transcoder import train_transcoder
from unbox.sae.training_run import TrainingRun
from unbox.stopping import Stopped, stopping

QUICK = {"batch_size": 128, "progress": False}


def weights(sae):
    return {name: getattr(sae, name) for name in ("W_enc", "W_dec", "b_pre", "b_lat")}


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values(), strict=True))


@pytest.mark.parametrize("name", NESTED_CODES)
def test_recovers_a_planted_dictionary(name):
    x, atoms = planted()
    sae = fit(x, 3, 48, variant=name, tokens=200_000, batch_size=512, lr=1e-2, progress=False)
    nearest = (torch.from_numpy(atoms) @ sae.W_dec.T).amax(1)
    # Matryoshka's small prefixes must explain alone, so its atoms lean towards the common ones.
    assert nearest.mean() > (0.9 if name == "matryoshka" else 0.95)
    assert sae.W_dec.norm(dim=1) == pytest.approx(np.ones(48), abs=1e-5)
    assert sae.stats.density.sum() == pytest.approx(3, rel=0.02)
    figures = evaluate(sae, ArrayRows(planted(seed=0)[0][:2000]))
    assert figures.fvu < 0.15


def test_scaling_the_rows_scales_the_biases_alone():
    x = noise().array
    one = fit(x, 2, 24, tokens=4000, precision="fp32", **QUICK)
    ten = fit(x * 8, 2, 24, tokens=4000, precision="fp32", **QUICK)
    assert torch.allclose(one.W_dec, ten.W_dec, atol=1e-5)
    assert torch.allclose(one.b_pre * 8, ten.b_pre, rtol=1e-4, atol=1e-4)
    assert ten.update_std == pytest.approx(8 * one.update_std, rel=1e-5)


def test_resumes_to_the_same_bits(tmp_path, monkeypatch):
    rows = {"mid.0": noise(seed=0, block="mid.0"), "up.0.1": noise(5000, 8, seed=1)}
    plan = {"tokens": 12_000, "dead_after": 400, "checkpoint_every": 2000, "held_out": 0, **QUICK}
    asked = [Spec("mid.0", 2, 40), Spec("mid.0", 2, 40, seed=1), Spec("up.0.1", 3, 64, "matryoshka")]
    whole = train(rows, tmp_path / "whole", asked, **plan)

    class Stop(Exception):
        pass

    write, calls = CheckpointWriter.write, []

    def stopping(writer, run):
        write(writer, run)
        calls.append(run.rounds)
        assert any(len(f.dead) for f in run.fits.values()) or len(calls) < 2
        raise Stop

    monkeypatch.setattr(CheckpointWriter, "write", stopping)
    for _ in range(3):
        with pytest.raises(Stop):
            train(rows, tmp_path / "parts", asked, **plan)
        module = sys.modules["unbox.sae.training_run"]
        monkeypatch.setattr(module, "measure", lambda *given: pytest.fail("the start is in the checkpoint"))
    monkeypatch.setattr(CheckpointWriter, "write", write)
    parts = train(rows, tmp_path / "parts", asked, **plan)
    assert len(calls) == 3
    assert list(whole) == list(parts)
    assert all(same(whole[name], parts[name]) for name in whole)
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("whole", "parts")]
    plain = [[{**json.loads(line), "rows_per_second": 0} for line in some] for some in lines]
    assert plain[0] == plain[1]
    again = train(rows, tmp_path / "parts", resume=True, held_out=0, progress=False)
    assert all(same(whole[name], again[name]) for name in whole)
    assert not list((tmp_path / "parts").glob("checkpoint-*"))


@pytest.mark.parametrize("kind", ["sae", "transcoder"])
def test_a_run_goes_on_in_the_precision_it_began_with(tmp_path, monkeypatch, kind):
    """Whole runs that were asked for each precision are the truth; `auto` takes it from the processor."""
    rows, plan = noise(), {"tokens": 6000, "checkpoint_every": 2000, "held_out": 0, **QUICK}

    def trained(out, **more):
        if kind == "sae":
            return train(rows, tmp_path / out, [Spec("", 2, 40)], **plan, **more)
        given = (rows.array, rows.array[:, ::-1].copy(), tmp_path / out, [Spec("", 2, 40)])
        return train_transcoder(*given, **{**plan, **more})

    def on_processor(bf16):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)

    whole = {each: next(iter(trained(each, precision=each).values())) for each in ("bf16", "fp32")}
    write = CheckpointWriter.write

    def written_once(writer, run):
        write(writer, run)
        raise KeyboardInterrupt

    for began, other in (("bf16", "fp32"), ("fp32", "bf16")):
        on_processor(bf16=began == "bf16")
        with monkeypatch.context() as stopped:
            stopped.setattr(CheckpointWriter, "write", written_once)
            with pytest.raises(KeyboardInterrupt):
                trained(f"auto-{began}")
        on_processor(bf16=began != "bf16")
        with pytest.warns(UserWarning, match=f"began with products in {began} .* would be {other}"):
            found = next(iter(trained(f"auto-{began}").values()))
        assert torch.equal(found.W_enc, whole[began].W_enc)
        assert not torch.equal(found.W_enc, whole[other].W_enc)
        read = next(iter(trained(f"auto-{began}").values()))  # finished: no warning
        assert torch.equal(read.W_enc, found.W_enc)


CHILD = """
import sys
from tests.sae.worlds import noise
from unbox.sae import Spec, train
train({"mid.0": noise(block="mid.0")}, sys.argv[1], [Spec("mid.0", 2, 40)], tokens=24_000, batch_size=64,
      checkpoint_every=640, progress=False)
"""


@pytest.mark.slow
def test_kill_9_and_resume(tmp_path):
    def run(out, after=None):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(out)], env={**os.environ})
        if after is None:
            assert child.wait(120) == 0
            return
        while not list(out.glob("checkpoint-*")) and child.poll() is None:
            time.sleep(0.01)
        time.sleep(after)
        child.send_signal(signal.SIGKILL)
        child.wait(60)

    run(tmp_path / "whole")
    for delay in (0.0, 0.13):
        run(tmp_path / "killed", delay)
    run(tmp_path / "killed")
    assert same(SAE.load(tmp_path / "whole" / "mid.0"), SAE.load(tmp_path / "killed" / "mid.0"))


def test_logging_changes_nothing():
    rows = {"": noise()}

    def trained(log_every, sinks):
        run = TrainingRun(
            make_plan([Spec("", 2, 40)], tokens=6000, batch_size=128, log_every=log_every), rows
        )
        steps(run, False, sinks)
        return run.fits["rows_k2_n40"].sae("")

    class Sink(list):
        def write(self, record):
            self.append(record)

    sink = Sink()
    assert same(trained(128, [sink]), trained(10**9, []))
    assert len(sink) > 40
    assert all(record["fvu"] > 0 for record in sink)


def test_many_at_once_equal_each_alone(tmp_path):
    rows = {"mid.0": noise(block="mid.0")}
    asked = specs(["mid.0"], k=[2, 4], latents=40, variant=["topk", "batchtopk"])
    together = train(rows, tmp_path / "all", asked, tokens=4000, **QUICK)
    assert len(together) == 4
    for spec in asked:
        alone = train(rows, tmp_path / spec.title, [spec], tokens=4000, **QUICK)["mid.0"]
        assert same(alone, together[spec.title])


def test_dead_latents_are_revived():
    """Half of the latents start with a bias that silences them: AuxK brings them back."""
    x, _ = planted(rows=8000)
    dead = {}
    for aux in (0.0, 1 / 32):
        spec = Spec("", 3, 48, lr=1e-2)
        plan = make_plan([spec], tokens=120_000, batch_size=256, aux=aux, dead_after=3000)
        run = TrainingRun(plan, {"": ArrayRows(x)})
        run.fits[spec.title].weights["b_lat"][:24] = -2.5
        steps(run, False)
        dead[aux] = evaluate(next(run.finished()), ArrayRows(x)).dead_fraction
    assert dead[0.0] > 0.25
    assert dead[1 / 32] < 0.1


def test_all_latents_dead():
    """Latents that no row can reach stay dead (AuxK has the model's ReLU), and nothing turns NaN."""
    spec = Spec("", 3, 48)
    run = TrainingRun(make_plan([spec], tokens=10_000, batch_size=256, dead_after=1000), {"": noise()})
    run.fits[spec.title].weights["b_lat"][:] = -50.0
    steps(run, False)
    sae = next(run.finished())
    line = run.fits[spec.title].read_meter()
    assert (line["dead"], line["l0"]) == (48, 0)
    figures = evaluate(sae, noise())
    assert (figures.dead_fraction, figures.l0) == (1, 0)
    assert figures.fvu == pytest.approx(1, abs=0.05)  # b_pre alone is left, near the mean
    assert all(torch.isfinite(w).all() for w in weights(sae).values())


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


DENSE_ROWS, DENSE_LATENTS = 1024, 131_072
linux = pytest.mark.skipif(not CLEAR.exists(), reason="Linux tells the high-water mark of memory")


@linux
@pytest.mark.parametrize(
    ("name", "dead"), [*((n, 0) for n in VARIANTS if not VARIANTS[n].learns_threshold), ("topk", 20_000)]
)
def test_no_dense_array_of_a_batch_by_latents(name, dead, threads):
    """The memory of a step, of all threads, stays under half of that array in the product's precision: a
    thread of the compiled loops holds 128 rows of it, torch's path 2 million entries."""
    spec = Spec("", 4, DENSE_LATENTS, name)
    fit(noise(), 4, 512, tokens=256, variant=name, progress=False)  # what the first step loads is no array
    run = TrainingRun(make_plan([spec], tokens=10**6, batch_size=DENSE_ROWS), {"": noise(rows=DENSE_ROWS)})
    one = run.fits[spec.title]
    one.dead = torch.arange(dead)
    one._count_dead()
    with peak() as bytes_:
        run.advance()
    assert bytes_[0] < DENSE_ROWS * DENSE_LATENTS * one.lowp.itemsize / 2
    assert all(torch.isfinite(w).all() for w in one.weights.values())


@linux
def test_a_dense_array_would_be_seen():
    """Made by torch or by NumPy, by a worker thread, and freed again."""
    size = DENSE_ROWS * DENSE_LATENTS
    for make in (lambda: torch.zeros(size, dtype=torch.bfloat16), lambda: np.ones(size, np.uint16)):
        with ThreadPoolExecutor(1) as pool, peak() as bytes_:
            pool.submit(lambda make=make: make().any()).result()
        assert bytes_[0] >= 0.9 * 2 * size


def test_without_dead_latents_auxk_costs_and_changes_nothing():
    saes = [fit(noise(), 2, 24, tokens=4000, dead_after=10**9, aux=aux, **QUICK) for aux in (0.0, 1 / 32)]
    assert same(*saes)


def test_threshold_is_exported_and_gives_k_on_average():
    sae = fit(noise(), 3, 40, variant="batchtopk", tokens=20_000, **QUICK)
    codes = sae.encode(torch.from_numpy(noise().array))
    assert sae.threshold > 0
    assert codes.l0.double().mean() == pytest.approx(3, rel=0.05)
    assert (codes.values.diff(dim=-1) <= 0).all()
    active = codes.values[codes.values > 0]
    assert active.min() >= sae.threshold
    topk = sae.with_threshold(None).encode(torch.from_numpy(noise().array))
    assert topk.values.shape == (3000, 3)


def test_bf16_chooses_winners_and_fp32_gives_their_values():
    generator = torch.Generator().manual_seed(0)
    x, W = torch.randn(200, 64, generator=generator), torch.randn(512, 64, generator=generator)
    runs = [
        TrainingRun(make_plan([Spec("", 8, 512)], precision=p), {"": ArrayRows(x)}) for p in ("bf16", "fp32")
    ]
    fits = [run.fits["rows_k8_n512"] for run in runs]
    found = []
    for one in fits:
        one.weights["W_enc"].copy_(W)
        one.low_encoder.copy_(W)
        active, known = one._topk(x, len(x))
        values = sparse.dots(x, active, W) if known is None else known
        close = (x @ W.T)[active.rows, active.indices]
        assert torch.allclose(values, close, rtol=1e-5, atol=1e-5)
        found.append({*zip(active.rows.tolist(), active.indices.tolist(), strict=True)})
    assert len(found[0] & found[1]) > 0.95 * 200 * 8


def test_starts():
    x = noise().array
    for init in ("tied", "subspace"):
        for centre in ("mean", "median"):
            plan = make_plan([Spec("", 2, 24)], init=init, centre=centre)
            fit_ = TrainingRun(plan, {"": ArrayRows(x)}).fits["rows_k2_n24"]
            assert torch.equal(fit_.weights["W_enc"], fit_.weights["W_dec"])
            assert fit_.weights["W_dec"].norm(dim=1) == pytest.approx(np.ones(24), abs=1e-5)
    flat = np.concatenate([x, np.zeros_like(x)], 1)
    plan = make_plan([Spec("", 2, 24)], init="subspace")
    directions = TrainingRun(plan, {"": ArrayRows(flat)}).fits["rows_k2_n24"].weights["W_dec"]
    assert directions[:, 16:].abs().max() < 1e-5


def test_several_epochs_and_small_last_batches():
    rows = noise(rows=100)
    seen = []
    for batch in rows.batches(32, seed=1, epochs=3):
        seen.append(batch)
    assert [len(b) for b in seen] == [32, 32, 32, 4] * 3
    assert np.array_equal(np.sort(np.concatenate(seen)[:100], 0), np.sort(rows.array, 0))
    sae = fit(rows, 2, 8, tokens=250, batch_size=4096, progress=False)
    assert torch.isfinite(sae.W_dec).all()


BAD = [
    ({"k": 9, "latents": 8}, "k is at most the latents"),
    ({"k": 0}, "k = 0"),
    ({"variant": "top"}, "fit: variant = 'top': should be one of 'topk'"),
    ({"nonsense": 1}, "training: nonsense = 1: is unknown, there are tokens"),
    ({"batch_size": 0}, "batch_size = 0"),
    ({"precision": "fp8"}, "precision = 'fp8': should be one of 'auto', 'bf16' or 'fp32'"),
    ({"lr": 7.0}, "lr = 7.0"),
    ({"levels": (1, 2)}, "no meaning"),
    ({"variant": "matryoshka", "levels": (4, 2, 8)}, "must ascend"),
    ({"centre": "middle"}, "'median' or 'mean'"),
    ({"seed": 2**64}, "seed = 18446744073709551616: should be less than"),
    ({"lr": float("nan")}, "lr = nan: should be a finite number"),
    ({"tokens": 0}, "tokens = 0: should be at least 1"),
    ({"scaled": 1}, "scaled = 1: should be true or false"),
    ({"latents": 10**10}, "training rows_k2_n10000000000 would take 6.4 TB of memory; the limit is"),
    ({"batch_size": 2**39}, "would take .* of memory; the limit is"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options(options, message):
    with pytest.raises(UnboxError, match=message):
        fit(noise(), **{"k": 2, "latents": 8, "progress": False, **options})


def test_bad_rows():
    with pytest.raises(UnboxError, match="all the same"):
        fit(np.ones((50, 4), np.float32), 1, 8, progress=False)
    bad = noise().array.copy()
    bad[7, 3] = np.nan
    with pytest.raises(UnboxError, match="1 of 3000 rows hold NaN"):
        fit(bad, 1, 8, progress=False)
    with pytest.raises(UnboxError, match="shape"):
        fit(np.ones(5), 1, 8, progress=False)
    with pytest.raises(UnboxError, match="too few"):
        fit(np.ones((1, 5)), 1, 8, progress=False)
    with pytest.raises(UnboxError, match="no rows of 'up'"):
        TrainingRun(Plan(saes=(Spec("up", 1, 8),)), {"mid.0": noise()})
    with pytest.raises(UnboxError, match="names none"):
        TrainingRun(Plan(), {"mid.0": noise()})


def test_rows_of_any_scale_are_learnt_alike():
    """Down to where squares are nothing in float32, and up to where they are infinite: then it is said."""
    figures = []
    for factor in (1.0, 1e-25, 1e15):
        rows = ArrayRows(noise().array * np.float32(factor))
        sae = fit(rows, 2, 24, tokens=4000, lr=1e-3, **QUICK)
        x = torch.from_numpy(rows.array[:200]) / factor
        error = sae(torch.from_numpy(rows.array[:200])) / factor - x
        figures.append(float(error.square().sum() / (x - x.mean(0)).square().sum()))
    assert figures == pytest.approx(figures[:1] * 3, rel=0.05)
    with pytest.raises(UnboxError, match="whose squares no float32 holds: divide them before"):
        fit(noise().array * np.float32(1e30), 2, 24, **QUICK)
    for given in (noise().array, torch.from_numpy(noise().array).bfloat16()):
        assert fit(given, 2, 24, tokens=512, **QUICK).width == 16


def test_a_limit_that_leaves_out_every_row_is_an_error():
    with pytest.raises(UnboxError, match=r"every row was left out, of a norm over 0\.01 times the median"):
        fit(noise(), 2, 24, tokens=1000, max_norm=0.01, **QUICK)


def test_a_rate_that_blows_up_is_an_error():
    big = ArrayRows(noise().array)
    plan = make_plan([Spec("", 2, 8)], batch_size=64, scaled=False, log_every=64)
    run = TrainingRun(plan, {"": big})
    run.fits["rows_k2_n8"].weights["W_dec"].fill_(1e30)
    with pytest.raises(UnboxError, match="no longer finite"):
        steps(run, False)


def test_another_run_is_not_overwritten(tmp_path):
    rows = {"mid.0": noise(block="mid.0")}
    train(rows, tmp_path / "a", [Spec("mid.0", 2, 16)], tokens=1000, **QUICK)
    with pytest.raises(UnboxError, match="other saes"):
        train(rows, tmp_path / "a", [Spec("mid.0", 3, 16)], tokens=1000, **QUICK)
    with pytest.raises(UnboxError, match="other rows"):
        train(
            {"mid.0": noise(seed=9, block="mid.0")},
            tmp_path / "a",
            [Spec("mid.0", 2, 16)],
            tokens=1000,
            **QUICK,
        )
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "photo.png").write_bytes(b"x")
    with pytest.raises(UnboxError, match="no run"):
        train(rows, tmp_path / "b", [Spec("mid.0", 2, 16)], tokens=1000, **QUICK)
    assert list(load_saes(tmp_path / "a")) == ["mid.0"]


def test_two_trainings_of_one_folder(tmp_path):
    """The second is refused while the first is at work, and the metrics are of one."""
    options = {"tokens": 2000, "batch_size": 100, "progress": False}
    with run_folder(tmp_path / "run", "train"):
        (tmp_path / "run" / "x").touch()
        with ThreadPoolExecutor(1) as other, pytest.raises(UnboxError, match="in use by process"):
            other.submit(train, noise(), tmp_path / "run", [Spec(k=2, latents=24)], **options).result()
        (tmp_path / "run" / "x").unlink()
    train(noise(), tmp_path / "run", [Spec(k=2, latents=24)], **options)
    assert not (tmp_path / "run" / LOCK).exists()


def test_an_sae_put_into_a_finished_run_is_not_taken_for_its_own(tmp_path):
    options = {"tokens": 2000, "batch_size": 100, "progress": False}
    saes = train(noise(), tmp_path / "run", [Spec(k=2, latents=24)], **options)
    ((name, sae),) = saes.items()
    for change, message in (
        ({"k": 3}, "k is 3, the run's 2"),
        ({"block": "mid.0"}, "block is mid.0"),
        ({"meta": {}}, "rows is None"),
    ):
        replace(sae, **change).save(tmp_path / "run" / name, overwrite=True)
        with pytest.raises(UnboxError, match=message):
            train(noise(), tmp_path / "run", [Spec(k=2, latents=24)], **options)
    sae.save(tmp_path / "run" / name, overwrite=True)
    train(noise(), tmp_path / "run", [Spec(k=2, latents=24)], **options)


def test_dead_are_looked_for_every_few_steps():
    plan = make_plan([Spec("", 1, 64)], tokens=10**6, batch_size=32, dead_after=33)
    run = TrainingRun(plan, {"": noise()})
    fit_ = run.fits["rows_k1_n64"]
    for _ in range(LOOK):
        assert not len(fit_.dead)
        run.advance()
    assert len(fit_.dead) == int((fit_.silent > 33).sum()) > 0


def test_a_checkpoint_is_of_the_moment_it_was_asked_for(tmp_path):
    """Written by a thread while the next steps change every number, as on a GPU."""
    plan = make_plan([Spec("", 2, 24), Spec("", 3, 24, "batchtopk")], tokens=10**6, batch_size=64)
    run = TrainingRun(plan, {"": noise()})
    writer = CheckpointWriter(tmp_path, run, background=True)
    for _ in range(3):
        run.advance()
    before = {name: {k: t.clone() for k, t in one.state().items()} for name, one in run.fits.items()}
    writer.write(run)
    for _ in range(5):
        run.advance()
    writer.close()
    found = latest(tmp_path, [""])
    other = TrainingRun(plan, {"": noise()}, starts=read_starts(tmp_path, plan, {"": 16}))
    restore(found, other)
    assert other.rounds == 3
    for name, one in other.fits.items():
        assert all(torch.equal(tensor, before[name][key]) for key, tensor in one.state().items())
        assert one.sums.tolist() == found.progress["meters"][name][0][:3] != [0, 0, 0]
    for _ in range(5):
        other.advance()
    assert all(same(run.fits[name].sae(name), one.sae(name)) for name, one in other.fits.items())


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda data: data[: len(data) // 2], "is damaged: SafetensorError"),
        (lambda data: b"\xff" * 8 + data[8:], "its header is over"),
        (lambda data: b"", "is not of these SAEs|is damaged"),
        (lambda data: data.replace(b"0.W_enc", b"0.X_enc"), r"0\.W_enc is not there"),
        (
            lambda data: data.replace(b"[24,16]", b"[16,24]"),
            r"0\.W_(enc|dec) is not there whole in the shape",
        ),
        (lambda data: data[:-64] + b"\xff" * 64, "holds NaN"),
    ],
)
def test_damaged_checkpoints_are_refused(harm, message, tmp_path):
    plan = make_plan([Spec("", 2, 24)], tokens=10**6, batch_size=64)
    run = TrainingRun(plan, {"": noise()})
    writer = CheckpointWriter(tmp_path, run)
    run.advance()
    writer.write(run)
    found = latest(tmp_path, [""])
    file = next(found.folder.glob("tensors/*model-00001*"))
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(UnboxError, match=message):
        restore(found, TrainingRun(plan, {"": noise()}))


def test_a_signal_saves_the_step_in_hand(tmp_path, monkeypatch):
    """The step that is at work when SIGTERM comes is in the checkpoint, also the sums of its next line."""
    options = {"tokens": 6000, "batch_size": 100, "log_every": 700, "progress": False}
    whole = train(noise(), tmp_path / "whole", [Spec("", 2, 24)], **options)
    advance = TrainingRun.advance

    def signalled(run, *given):
        if run.rounds == 16:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(run, *given)

    monkeypatch.setattr(TrainingRun, "advance", signalled)
    with stopping(), pytest.raises(Stopped):
        train(noise(), tmp_path / "stopped", [Spec("", 2, 24)], **options)
    assert latest(tmp_path / "stopped", [""]).progress["rounds"] == 17
    monkeypatch.setattr(TrainingRun, "advance", advance)
    stopped = train(noise(), tmp_path / "stopped", [Spec("", 2, 24)], **options)
    assert all(same(whole[name], stopped[name]) for name in whole)
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("whole", "stopped")]
    plain = [[{**json.loads(line), "rows_per_second": 0} for line in some] for some in lines]
    assert plain[0] == plain[1]
