"""Training that begins from an SAE, and runs that go on for more tokens."""

from dataclasses import replace

import pytest
import torch

from tests.sae.worlds import noise, planted
from unbox.errors import UnboxError
from unbox.sae import SAE, ArrayRows, Spec, evaluate, fit, train
from unbox.sae.plan import make_plan
from unbox.sae.sae_folder import WEIGHTS
from unbox.sae.training_run import TrainingRun

QUICK = {"batch_size": 128, "progress": False}


@pytest.fixture(scope="module")
def rows():
    return ArrayRows(planted(rows=6000)[0])


@pytest.fixture(scope="module")
def trained(rows):
    return fit(rows, 3, 48, tokens=60_000, lr=1e-2, **QUICK)


def begun(sae, rows, k=3):
    """The SAE as it is before the first step of a run that begins from it."""
    plan = make_plan([Spec("", k, sae.latents)], tokens=1000, batch_size=128)
    (name,) = plan.names()
    run = TrainingRun(plan, {"": rows}, initial={name: sae})
    return run.fits[name].sae(name)


def test_it_begins_with_the_same_codes(trained, rows):
    found, x = begun(trained, rows), torch.from_numpy(rows.array[:500])
    assert torch.allclose(found.encode(x).dense(48), trained.encode(x).dense(48), atol=1e-4)
    assert torch.allclose(found(x), trained(x), atol=1e-4)


def test_decoder_rows_are_made_unit_and_that_is_said(trained, rows):
    factor = torch.linspace(0.5, 2, 48)
    longer = replace(
        trained,
        W_dec=trained.W_dec * factor[:, None],
        W_enc=trained.W_enc / factor[:, None],
        b_lat=trained.b_lat / factor,
    )
    with pytest.warns(UserWarning, match="are not unit vectors"):
        found = begun(longer, rows)
    x = torch.from_numpy(rows.array[:500])
    assert torch.allclose(found.encode(x).dense(48), trained.encode(x).dense(48), atol=1e-4)


def test_a_few_tokens_more_are_worth_more_than_from_the_beginning(trained, rows):
    options = {"tokens": 4000, "lr": 1e-3, **QUICK}
    warm, cold = fit(rows, 3, 48, init_from=trained, **options), fit(rows, 3, 48, **options)
    assert evaluate(warm, rows).fvu < 0.5 * evaluate(cold, rows).fvu
    assert evaluate(warm, rows).fvu < 1.05 * evaluate(trained, rows).fvu


def test_from_a_folder_by_block_name_and_k(trained, tmp_path):
    saes = {name: replace(trained, name=name, k=k) for name, k in (("a", 2), ("b", 3))}
    for name, sae in saes.items():
        sae.save(tmp_path / "there" / name)
    rows = ArrayRows(planted(rows=2000)[0])
    options = {"tokens": 1000, "held_out": 0, **QUICK}
    found = train(rows, tmp_path / "out", [Spec(k=3, latents=48)], init_from=tmp_path / "there", **options)
    (sae,) = found.values()
    assert sae.meta["training"]["init_from"] == saes["b"].identity
    with pytest.raises(
        UnboxError, match=r"begin from several SAEs of no block with 48 latents; there is a \("
    ):
        train(rows, tmp_path / "x", [Spec(k=4, latents=48)], init_from=tmp_path / "there", **options)
    with pytest.raises(UnboxError, match="begin from no SAE of no block with 64 latents"):
        train(rows, tmp_path / "x", [Spec(k=3, latents=64)], init_from=tmp_path / "there", **options)
    assert not (tmp_path / "x").exists()
    wide = ArrayRows(planted(rows=2000, width=20)[0])
    with pytest.raises(UnboxError, match="has width 32, the rows 20"):
        train(wide, tmp_path / "y", [Spec(k=3, latents=48)], init_from=tmp_path / "there", **options)


def test_beginning_from_another_sae_is_another_run(trained, tmp_path, monkeypatch):
    rows, spec = ArrayRows(planted(rows=2000)[0]), [Spec(k=3, latents=48)]
    options = {"tokens": 1000, "held_out": 0, **QUICK}

    class Stop(Exception):
        pass

    def stop(self, *given):
        raise Stop

    monkeypatch.setattr(TrainingRun, "advance", stop)
    with pytest.raises(Stop):
        train(rows, tmp_path / "run", spec, init_from=trained, **options)
    monkeypatch.undo()
    other = replace(trained, b_lat=trained.b_lat + 1)
    for init_from in (other, None):
        with pytest.raises(UnboxError, match=r"holds a run with other SAEs that it began from \(init_from\)"):
            train(rows, tmp_path / "run", spec, init_from=init_from, **options)
    with pytest.raises(UnboxError, match="no checkpoint yet: say again what it is to begin from"):
        train(rows, tmp_path / "run", resume=True, progress=False)
    train(rows, tmp_path / "run", spec, init_from=trained, **options)
    train(rows, tmp_path / "run", resume=True, progress=False)


AMOUNTS = {"warmup": 500, "decay": 0, "dead_after": 3000, "log_every": 1000, "checkpoint_every": 2000}


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in WEIGHTS)


@pytest.mark.parametrize("variant", ["topk", "batchtopk"])
def test_a_finished_run_goes_on_as_a_longer_one(variant, tmp_path):
    rows, spec = noise(), [Spec(k=2, latents=40, variant=variant, lr=1e-3)]
    options = {"held_out": 0, **AMOUNTS, **QUICK}
    (whole,) = train(rows, tmp_path / "whole", spec, tokens=12_000, **options).values()
    (short,) = train(rows, tmp_path / "run", spec, tokens=5000, keep_optimizer=True, **options).values()
    assert not same(short, whole)
    assert list((tmp_path / "run").glob("checkpoint-*"))
    (more,) = train(rows, tmp_path / "run", resume=True, tokens=12_000, progress=False).values()
    # The shorter run's last batch is cut at 5000 rows, so later ones are others.
    assert more.meta["training"]["tokens"] == 12_000
    assert evaluate(more, rows).fvu == pytest.approx(evaluate(whole, rows).fvu, rel=0.05)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    (again,) = train(rows, tmp_path / "run", resume=True, tokens=12_000, progress=False).values()
    assert same(again, more)


def test_to_the_bit_where_the_shorter_run_ends_with_a_batch(tmp_path):
    rows, spec = noise(), [Spec(k=2, latents=40, lr=1e-3)]
    options = {"held_out": 0, **AMOUNTS, **QUICK}
    (whole,) = train(rows, tmp_path / "whole", spec, tokens=8960, **options).values()
    train(rows, tmp_path / "run", spec, tokens=2560, keep_optimizer=True, **options)
    (more,) = train(rows, tmp_path / "run", resume=True, tokens=8960, progress=False).values()
    assert same(more, whole)


def test_what_cannot_go_on_says_so(tmp_path):
    rows, spec = noise(), [Spec(k=2, latents=40)]
    train(rows, tmp_path / "run", spec, tokens=2560, held_out=0, **QUICK)
    with pytest.raises(UnboxError, match=r"is finished, and its optimizer's state was not kept .*init_from="):
        train(rows, tmp_path / "run", resume=True, tokens=8000, progress=False)
    with pytest.raises(UnboxError, match=r"tokens = 1,000 is less than the 2,560"):
        train(rows, tmp_path / "run", resume=True, tokens=1000, progress=False)
    with pytest.raises(UnboxError, match="of options tokens alone; lr is another"):
        train(rows, tmp_path / "run", resume=True, lr=1, progress=False)
    assert SAE.load(tmp_path / "run" / "rows_k2_n40").latents == 40
