"""Transcoders on a known nonlinear map: figures against the truth; the step against dense autograd; stops."""

import json

import numpy as np
import pytest
import torch

from tests.activation_store import fakes
from unbox.cli.main import main
from unbox.errors import UnboxError
from unbox.sae import Spec, Transcoder, train_transcoder
from unbox.sae.objective import topk
from unbox.sae.plan import make_plan
from unbox.sae.side_by_side import side_by_side
from unbox.sae.training_run import TrainingRun
from unbox.sae.transcoder_step import TranscoderTrainer

D_IN, D_OUT, UNITS = 20, 30, 24


def known_map(rows=30_000, skip=False, seed=0):
    """Rows x, y = ReLU(E x + c) D (+ S x) of them, and E, D, S: about three of 24 units are active."""
    rng = np.random.default_rng(seed)
    E, D = (
        m / np.linalg.norm(m, axis=1, keepdims=True)
        for m in (rng.normal(size=(UNITS, d)) for d in (D_IN, D_OUT))
    )
    S = rng.normal(size=(D_OUT, D_IN)) * 0.05 * skip
    x = rng.normal(size=(rows, D_IN))
    y = 20 * (np.maximum(x @ E.T - 1.15, 0) @ D + x @ S.T) + 5  # other numbers than the source's
    return x.astype(np.float32), y.astype(np.float32), E, D, 20 * S


def linear_fvu(x, y):
    """Of the best linear map, by least squares."""
    a, b = (np.concatenate([m, np.ones((len(m), 1))], 1) if i == 0 else m for i, m in enumerate((x, y)))
    left = b - a @ np.linalg.lstsq(a, b, rcond=None)[0]
    return float(np.square(left).sum() / np.square(y - y.mean(0)).sum())


@pytest.mark.parametrize(("skip", "variant"), [(False, "batchtopk"), (True, "batchtopk"), (False, "topk")])
def test_a_known_map_is_found(skip, variant, tmp_path):
    x, y, E, D, S = known_map(skip=skip)
    spec = [Spec(k=3, latents=32, variant=variant, lr=1e-2)]
    options = {"tokens": 400_000, "batch_size": 512, "progress": False}
    (found,) = train_transcoder(x, y, tmp_path / "out", spec, skip=skip, **options).values()
    into, out = (torch.nn.functional.normalize(w, dim=1) for w in (found.W_enc, found.W_dec))
    cosines = torch.from_numpy(D).float() @ out.T
    best, latent = cosines.max(1)
    assert float(best.mean()) > (0.95 if variant == "batchtopk" else 0.85)
    assert float((torch.from_numpy(E).float() * into[latent]).sum(1).mean()) > (
        0.93 if variant == "batchtopk" else 0.8
    )
    figures = found.meta["figures"]
    assert figures["fvu"] < (0.05 if variant == "batchtopk" else 0.15)
    assert figures["fvu"] < 0.2 * linear_fvu(x, y)
    assert figures["l0"] == pytest.approx(3, rel=0.1 if variant == "batchtopk" else 0.3)
    other, truth = (torch.from_numpy(m) for m in known_map(rows=2000, skip=skip, seed=0)[:2])
    error = (found(other) - truth).square().sum() / (truth - truth.mean(0)).square().sum()
    assert float(error) == pytest.approx(figures["fvu"], rel=0.3)
    if skip:
        assert float((found.W_skip - torch.from_numpy(S).float()).norm()) < 0.25 * np.linalg.norm(S)


@pytest.mark.parametrize("skip", [False, True])
def test_a_step_has_the_gradients_of_the_dense_definition(skip):
    x, y, *_ = known_map(rows=2000, skip=skip)
    rows = side_by_side({"a": x, "b": y})
    plan = make_plan([Spec("a-b", 3, 32)], tokens=4000, batch_size=128)
    run = TrainingRun(
        plan, {"a-b": rows}, trainer=lambda *given: TranscoderTrainer((D_IN, D_OUT), skip, *given)
    )
    (one,) = run.fits.values()
    for _ in range(4):
        run.advance()
    batch = torch.from_numpy(rows.sample(128, 1)) * one.start.scale
    w = {name: weight.clone().requires_grad_() for name, weight in one.weights.items()}
    centred = batch[:, :D_IN] - w["b_pre"]
    decoded = topk(centred @ w["W_enc"].T + w["b_lat"], 3) @ w["W_dec"] + w["b_out"]
    decoded = decoded + centred @ w["W_skip"].T if skip else decoded
    target = batch[:, D_IN:]
    variance = one.start.variance / 2
    ((decoded - target).square().sum() / (128 * variance)).backward()
    before = {name: mean.clone() for name, (mean, _) in one.moments.items()}
    one.step(batch, 128, 1.0)
    for name, (mean, _) in one.moments.items():
        expected = w[name].grad
        if name == "W_dec":
            expected = expected - (expected * w[name].detach()).sum(1, keepdim=True) * w[name].detach()
        found = (mean - 0.9 * before[name]) / 0.1
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max())), name
    scaled = torch.from_numpy(y / np.sqrt(np.square(y - y.mean(0)).sum(1).mean())) * one.start.scale
    assert variance == pytest.approx(float((scaled - scaled.mean(0)).square().sum(1).mean()), rel=1e-3)


def test_a_stopped_run_goes_on_to_the_same_bits_and_another_is_refused(tmp_path, monkeypatch):
    x, y, *_ = known_map(rows=3000)
    spec, plan = (
        [Spec(k=2, latents=16)],
        {"tokens": 6000, "batch_size": 128, "checkpoint_every": 1000, "progress": False},
    )
    (whole,) = train_transcoder(x, y, tmp_path / "whole", spec, skip=True, **plan).values()
    advance, left = TrainingRun.advance, [20]

    class Stop(Exception):
        pass

    def stopping(self, *args):
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        return advance(self, *args)

    monkeypatch.setattr(TrainingRun, "advance", stopping)
    with pytest.raises(Stop):
        train_transcoder(x, y, tmp_path / "parts", spec, skip=True, **plan)
    monkeypatch.undo()
    assert list((tmp_path / "parts").glob("checkpoint-*"))
    with pytest.raises(UnboxError, match="holds a run with other source, target or skip of transcoders"):
        train_transcoder(x, y, tmp_path / "parts", spec, **plan)
    with pytest.raises(UnboxError, match="holds a run with other"):
        train_transcoder(x, y + 1, tmp_path / "parts", spec, skip=True, **plan)
    (parts,) = train_transcoder(x, y, tmp_path / "parts", spec, skip=True, **plan).values()
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name])
    assert "held_out_fvu" in (tmp_path / "parts" / "metrics.jsonl").read_text()


def test_its_folder_is_checked(tmp_path):
    x, y, *_ = known_map(rows=1000)
    out = tmp_path / "out"
    (found,) = train_transcoder(x, y, out, [Spec(k=2, latents=16)], tokens=1000, progress=False).values()
    folder = out / "source-target"
    assert Transcoder.load(folder).meta == found.meta
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"digest": "0"}, "damaged"), ({"k": 17}, "k = 17"), ({"latents": 17}, "shape"),
        ({"skip": True}, "lacks W_skip"),
        ({"format": "unbox-sae"}, "format"), ({"more": 1}, "more = 1"),
    ):  # fmt: skip
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UnboxError, match=message):
            Transcoder.load(folder)
    with pytest.raises(UnboxError, match="holds no transcoder"):
        Transcoder.load(tmp_path)
    with pytest.raises(UnboxError, match="encodes vectors of width 20"):
        found.encode(torch.zeros(1, 21))
    with pytest.raises(UnboxError, match="a transcoder is topk or batchtopk"):
        train_transcoder(
            x, y, tmp_path / "m", [Spec(k=2, latents=16, variant="multik")], tokens=100, progress=False
        )


def test_gradients_go_to_the_source():
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (8, 4), "W_dec": (8, 5), "b_pre": (4,), "b_lat": (8,), "b_out": (5,), "W_skip": (5, 4)}
    weights = {n: torch.randn(*s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
    found, x = Transcoder(weights, 2), torch.randn(6, 4, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(found, x.requires_grad_())
    with pytest.raises(UnboxError, match="has a skip"):
        found.decode(found.encode(x))


def test_on_the_command_line(tmp_path, capsys):
    fakes.make(tmp_path / "acts", 12, blocks={"mid.0": (2, 2, 6), "up.0.1": (2, 2, 10)})
    line = [
        "train",
        "--store",
        str(tmp_path / "acts"),
        "--out",
        str(tmp_path / "out"),
        "--k",
        "2",
        "--latents",
        "16",
    ]
    line += ["--tokens", "400", "--batch-size", "64", "--transcode", "mid.0", "up.0.1"]
    assert main([*line, "--skip"]) == 0
    assert "mid.0-up.0.1: FVU" in capsys.readouterr().out
    found = Transcoder.load(tmp_path / "out" / "mid.0-up.0.1")
    assert (found.source, found.target, found.W_skip.shape) == ("mid.0", "up.0.1", (10, 6))
    assert main(line) == 2
    assert "skip of transcoders" in capsys.readouterr().err
    assert main([*line, "--keep", "100"]) == 2
    assert "--keep is not for --transcode" in capsys.readouterr().err
    assert main([*line[:-3], "--skip"]) == 2
    assert "--skip is for --transcode" in capsys.readouterr().err
