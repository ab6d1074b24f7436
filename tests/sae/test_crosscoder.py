"""Crosscoders on planted features, shared by sources and private to one; rows of stores side by side."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.activation_store import fakes
from unbox.cli.main import main
from unbox.errors import UnboxError
from unbox.sae import Crosscoder, Spec, fit, side_by_side, train

SHARED, PRIVATE, ACTIVE, WIDTHS = 20, 10, 3, {"first": 24, "second": 32}
#: The second source's numbers are so many times the first's.
LARGER = 40.0


def planted(rows=20_000, seed=0):
    """Rows of two sources of common codes, and each one's atoms (40, width): zero where one is not in it."""
    rng = np.random.default_rng(seed)
    atoms = {}
    for name, width in WIDTHS.items():
        directions = rng.normal(size=(SHARED + 2 * PRIVATE, width))
        atoms[name] = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    atoms["first"][SHARED + PRIVATE :] = 0
    atoms["second"][SHARED : SHARED + PRIVATE] = 0
    atoms["second"] *= LARGER
    chosen = rng.random((rows, SHARED + 2 * PRIVATE)).argpartition(ACTIVE, axis=1)[:, :ACTIVE]
    values = rng.uniform(0.5, 1.5, (rows, ACTIVE))
    found = {n: np.einsum("nk,nkd->nd", values, a[chosen]).astype(np.float32) + 3 for n, a in atoms.items()}
    return found, atoms


@pytest.fixture(scope="module")
def world():
    return planted()


@pytest.fixture(scope="module")
def crosscoder(world, tmp_path_factory):
    rows = side_by_side(world[0])
    options = {"tokens": 250_000, "batch_size": 512, "progress": False}
    spec = [Spec(k=ACTIVE, latents=48, variant="batchtopk", lr=1e-2)]
    out = tmp_path_factory.mktemp("crosscoder") / "saes"
    train(rows, out, spec, **options)
    return Crosscoder.load(out / "first-second")


def test_it_finds_the_planted_features_and_whose_they_are(crosscoder, world):
    """Shared ones with both directions, private ones in one source alone: figures against the truth."""
    _, atoms = world
    whole = np.concatenate([atoms["first"], atoms["second"] / LARGER], axis=1)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    ours = torch.cat([crosscoder.decoder("first"), crosscoder.decoder("second") / LARGER], 1)
    cosines = torch.from_numpy(whole).float() @ torch.nn.functional.normalize(ours, dim=1).T
    best, latent = cosines.max(1)
    assert float(best.mean()) > 0.99
    assert float(best.min()) > 0.9
    shares = crosscoder.shares()[latent]
    shared, first, second = shares.split([SHARED, PRIVATE, PRIVATE])
    assert (shared.amin(1) > 0.4).all()
    assert (first[:, 0] > 0.95).all()
    assert (second[:, 1] > 0.95).all()


def test_both_sources_are_explained_whatever_their_size(crosscoder, world):
    fvu = crosscoder.fvu(side_by_side(planted(rows=4000, seed=0)[0]))
    assert max(fvu.values()) < 0.02
    alone = fit(np.concatenate(list(world[0].values()), 1), ACTIVE, 48, variant="batchtopk", tokens=250_000,
                batch_size=512, lr=1e-2, progress=False)  # fmt: skip
    x = torch.from_numpy(world[0]["first"][:4000])
    both = torch.from_numpy(np.concatenate(list(world[0].values()), 1)[:4000])
    left = (alone(both)[:, :24] - x).square().sum() / (x - x.mean(0)).square().sum()
    assert fvu["first"] < 0.5 * float(left)  # without the factors the small source is left over


def test_codes_and_reconstructions_are_their_formula(crosscoder, world):
    rows = {name: torch.from_numpy(x[:50]) for name, x in world[0].items()}
    sae = crosscoder.sae
    sigma = {name: float(np.sqrt(np.square(x - x.mean(0)).sum(1).mean())) for name, x in world[0].items()}
    x = np.concatenate([rows[name].numpy() / sigma[name] for name in WIDTHS], 1)
    pre = (x - sae.b_pre.numpy()) @ sae.W_enc.numpy().T + sae.b_lat.numpy()
    z = np.where(pre > float(sae.threshold), pre, 0)
    assert np.allclose(crosscoder.encode(rows).dense(48).numpy(), z, atol=1e-3)
    decoded = z @ sae.W_dec.numpy() + sae.b_pre.numpy()
    found = crosscoder(rows)
    assert np.allclose(found["first"].numpy(), decoded[:, :24] * sigma["first"], rtol=1e-3, atol=1e-2)
    assert np.allclose(found["second"].numpy(), decoded[:, 24:] * sigma["second"], rtol=1e-3, atol=0.1)
    directions = crosscoder.decoder("second").numpy()
    assert np.allclose(directions, sae.W_dec.numpy()[:, 24:] * sigma["second"], rtol=1e-3)


def test_gradients_go_from_one_source_to_the_other(crosscoder, world):
    rows = {name: torch.from_numpy(x[:8]).clone() for name, x in world[0].items()}
    rows["first"].requires_grad_()
    crosscoder(rows)["second"].sum().backward()
    assert rows["first"].grad.abs().sum() > 0


def test_what_does_not_fit_is_refused(crosscoder, world, tmp_path):
    with pytest.raises(UnboxError, match="rows are of first; this crosscoder's sources are first, second"):
        crosscoder.encode({"first": torch.zeros(1, 24)})
    with pytest.raises(UnboxError, match="is no crosscoder: it was trained on rows of one source"):
        Crosscoder(replace(crosscoder.sae, meta={}))
    sources = crosscoder.sae.meta["sources"]
    for change in ({"widths": [24, 31]}, {"names": ["first"]}, {"factors": [1.0, -1.0]}, {"more": 1}):
        with pytest.raises(UnboxError, match="sources"):
            Crosscoder(replace(crosscoder.sae, meta={"sources": {**sources, **change}}))
    with pytest.raises(UnboxError, match="of two sources at least"):
        side_by_side({"a": np.ones((3, 2))})
    with pytest.raises(UnboxError, match="there are of a 3, b 4"):
        side_by_side({"a": np.ones((3, 2)), "b": np.ones((4, 2))})
    with pytest.raises(UnboxError, match="the rows of b are all the same vector"):
        side_by_side({"a": np.eye(3), "b": np.ones((3, 2))})


def test_blocks_and_steps_of_a_store(tmp_path):
    """Rows come image by image and place by place, whatever the order that batches have."""
    store = fakes.make(tmp_path / "acts", 12, blocks={"a": (4, 4, 6), "b": (4, 4, 10)})
    first, second = store.blocks[:2]
    rows = side_by_side(
        {
            "one": store[first].filter(steps=store[first].steps[0]),
            "two": store[second].filter(steps=store[second].steps[-1]),
        }
    )
    assert rows.block == "one-two"
    image = rows.read(1)
    a, b = (
        store[block].filter(steps=step).read(1)
        for block, step in ((first, store[first].steps[0]), (second, store[second].steps[-1]))
    )
    assert np.allclose(image[..., : a.shape[-1]], a * rows.factors["one"])
    assert np.allclose(image[..., a.shape[-1] :], b * rows.factors["two"])
    every = np.concatenate([rows.read(i).reshape(-1, rows.width) for i in range(rows.units)])
    seen = np.concatenate(list(rows.batches(7, seed=3)))
    assert np.allclose(every[np.lexsort(every.T)], seen[np.lexsort(seen.T)])
    plan = {"tokens": 600, "batch_size": 64, "held_out": 0.25, "progress": False}
    (sae,) = train(rows, tmp_path / "out", [Spec(k=2, latents=16, variant="batchtopk")], **plan).values()
    assert Crosscoder(sae).names == ("one", "two")
    assert sae.meta["figures"]["rows_from"] == "held-out rows"


def test_on_the_command_line(tmp_path, capsys):
    """Two blocks, one of them at two steps, and the same block of another model's store."""
    blocks = {"blocks": {"mid.0": (2, 2, 6), "up.0.1": (2, 2, 10)}}
    for name in ("acts", "other"):
        fakes.make(tmp_path / name, 12, **blocks)
    options = [
        "--k",
        "2",
        "--latents",
        "16",
        "--variant",
        "batchtopk",
        "--tokens",
        "400",
        "--batch-size",
        "64",
    ]
    line = ["train", "--store", str(tmp_path / "acts"), "--out", str(tmp_path / "saes"), *options]
    sources = ["mid.0:0", "up.0.1:1", "mid.0:1@1"]
    further = ["--with-stores", str(tmp_path / "other")]
    assert main([*line, "--crosscode", *sources, *further]) == 0
    crosscoder = Crosscoder.load(tmp_path / "saes" / "mid.0.step0-up.0.1.step1-mid.0.step1.store1")
    assert crosscoder.names == ("mid.0.step0", "up.0.1.step1", "mid.0.step1.store1")
    assert crosscoder.widths == (6, 10, 6)
    assert main([*line, "--crosscode", *sources, *further]) == 0  # finished: read
    for wrong, told in (
        (["mid.0:0", "up.0.1:1"], "holds a run with other"),
        (["mid.0:0", "mid.0:0"], "'mid.0:0' is asked for twice"),
        (["mid.0", "up.0.1@7"], "'up.0.1@7' is no source"),
    ):
        assert main([*line, "--crosscode", *wrong]) == 2
        assert told in capsys.readouterr().err
    assert main([*line, *further]) == 2
    assert "--with-stores is for --crosscode" in capsys.readouterr().err
