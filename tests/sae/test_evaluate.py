"""Figures against direct arithmetic, and the properties they must have."""

import gc
import json
import tracemalloc

import numpy as np
import pytest
import torch

from activation_store import StoreError
from tests.activation_store.fakes import make
from tests.sae.process_threads import in_threads
from tests.sae.worlds import noise, planted
from unbox.errors import UnboxError
from unbox.sae import ArrayRows, Figures, evaluate, fit
from unbox.sae.evaluate import decoder_cosine, density_histogram
from unbox.sae.evaluation_sums import EvaluationSums, evaluation_bytes
from unbox.sae.initialization import active_subspace, geometric_median
from unbox.sae.model import SAE
from unbox.sae.report import write_report
from unbox.sae.stability import agreement, matching, seed_stability


class Images(ArrayRows):
    """Rows of images: (samples, step, branch, y, x, d)."""

    def __init__(self, array, block=""):
        super().__init__(array, block)
        self.shape = array.shape
        self.cube, self.samples = array, range(len(array))
        self.steps, self.branches = (0, 2), ("cond", "uncond")

    def read(self, i):
        return self.cube[i]


@pytest.fixture(scope="module")
def world():
    x, _ = planted(rows=12 * 2 * 2 * 3 * 4, width=16, atoms=24)
    x[::2] *= 3
    rows = Images(x.reshape(12, 2, 2, 3, 4, 16), "mid.0")
    return fit(ArrayRows(x), 3, 24, tokens=6000, batch_size=128, progress=False), rows


def direct(sae, x):
    codes = sae.encode(torch.from_numpy(x.reshape(-1, x.shape[-1])))
    x = torch.from_numpy(x.reshape(-1, x.shape[-1])).double()
    error = x - sae.decode(codes).double()
    fvu = error.square().sum() / (x - x.mean(0)).square().sum()
    per_channel = (1 - error.var(0, correction=0) / x.var(0, correction=0)).mean()
    return float(fvu), float(per_channel)


def test_figures_are_those_of_direct_arithmetic(world):
    sae, rows = world
    found = evaluate(sae, rows)
    fvu, per_channel = direct(sae, rows.array)
    assert found.fvu == pytest.approx(fvu, rel=1e-6)
    assert found.explained_variance_per_channel == pytest.approx(per_channel, rel=1e-6)
    assert found.l0 == pytest.approx(3)
    assert evaluate(sae, rows.array).fvu == pytest.approx(fvu, rel=1e-6)
    low, high = found.fvu_interval
    assert low < found.fvu < high
    assert sum(found.density_histogram) == 24
    groups = {(g.step, g.branch): g for g in found.groups}
    assert len(groups) == 2 + 2 + 4
    assert groups[2, "uncond"].fvu == pytest.approx(direct(sae, rows.cube[:, 1, 1])[0], rel=1e-6)
    assert groups[0, None].fvu == pytest.approx(direct(sae, rows.cube[:, 0])[0], rel=1e-6)
    assert np.shape(found.positions) == (3, 4)
    assert found.positions[1][2] == pytest.approx(direct(sae, rows.cube[:, :, :, 1, 2])[0], rel=1e-6)
    assert "uncond" in found.table()


def test_limit_takes_images_evenly(world):
    sae, rows = world
    assert evaluate(sae, rows, limit=3 * 48).rows == 3 * 48
    assert evaluate(sae, rows.array, limit=100).rows == 100


def test_each_of_several_processes_takes_its_share(world):
    """The figures are those of one, in all; also where one has no image, and of rows without images."""
    sae, rows = world
    for given, several in ((rows, 5), (Images(rows.cube[:2], "mid.0"), 3), (rows.array, 3)):
        one = evaluate(sae, given)
        for found in in_threads(several, lambda group, given=given: evaluate(sae, given, processes=group)):
            assert found.to_json() == near(one.to_json())
    read = []
    counted = Images(rows.cube, "mid.0")
    counted.read = lambda i: read.append(i) or rows.cube[i]
    in_threads(4, lambda group: evaluate(sae, counted, processes=group))
    assert sorted(read) == sorted([0] * 4 + list(range(12)))  # each looks at the first, for its shape


def near(value):
    """The same JSON, numbers as close as sums in another order are."""
    if isinstance(value, dict):
        return {key: near(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(near(each) for each in value)
    return pytest.approx(value, rel=1e-5, abs=1e-9) if isinstance(value, float) else value


def test_steps_and_branches_are_chosen(tmp_path):
    store = make(tmp_path / "acts", 12)
    x = store["mid.0"].read(0).reshape(-1, 8)
    sae = fit(ArrayRows(np.concatenate([x] * 40)), 2, 16, tokens=500, progress=False)
    found = evaluate(sae, store["mid.0"], steps=[1], branches=["cond"])
    assert found == evaluate(sae, store["mid.0"].filter(steps=1, branches="cond"))
    assert {(g.step, g.branch) for g in found.groups} == {(1, None)}
    with pytest.raises(StoreError, match=r"no step 7.* 0, 1"):
        evaluate(sae, store["mid.0"], steps=[7])
    with pytest.raises(UnboxError, match="branches choose among the rows of a store"):
        evaluate(sae, x, branches=["cond"])


class ManyImages(ArrayRows):
    """More images than memory has room for: each is made when it is read."""

    steps, branches = (0,), ("cond",)

    def __init__(self, count, width):
        super().__init__(np.random.default_rng(0).normal(size=(8192, width)).astype(np.float32))
        self.samples = range(count)

    def __len__(self):
        return len(self.samples) * 16

    def sample(self, n, seed=0):
        return self.array[:n]

    def read(self, i):
        at = i * 16 % 4096
        return self.array[at : at + 16].reshape(1, 1, 4, 4, -1)


def test_memory_does_not_grow_with_the_images():
    """What is held after 6,000 images is what was after 2,000; counted for the researcher's store, 1.5
    million images of 1,280 channels, four or fifty guided steps at 1024 px, it is stated and small."""
    sae = SAE(torch.eye(32), torch.eye(32), torch.zeros(32), torch.zeros(32), k=4)
    held = {}
    for count in (2000, 6000):
        gc.collect()
        tracemalloc.start()
        figures = evaluate(sae, ManyImages(count, 32))
        held[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert figures.rows == count * 16
    assert held[6000] < 1.02 * held[2000] + 100_000
    assert held[6000] < evaluation_bytes(32, 32, 1, 16, 16)
    sums = EvaluationSums(sae, [(0, "cond")], 16, 1.0, False)
    tensors = sums.by_cell, sums.counts, sums.by_position, *vars(sums.latents).values()
    counted = sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor)) + sums.images.sums.nbytes
    assert counted <= evaluation_bytes(32, 32, 1, 16, 16) - 4 * 32 * 2 * 16_384
    four = evaluation_bytes(1280, 5120, cells=4, positions=1024, image_rows=4 * 1024)
    fifty = evaluation_bytes(1280, 131_072, cells=100, positions=1024, image_rows=100 * 1024)
    assert four < 0.35e9
    assert fifty < 1.3e9  # of which the rows of one image, as stored and as float32: 1.05e9


def test_a_perfect_and_an_empty_sae():
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    both = torch.cat([torch.eye(4), -torch.eye(4)])
    perfect = SAE(both, both, torch.zeros(4), torch.zeros(8), k=4)
    assert evaluate(perfect, x.numpy()).fvu < 1e-12
    empty = SAE(both, both, x.mean(0), torch.full((8,), -100.0), k=4)
    figures = evaluate(empty, x.numpy())
    assert figures.fvu == pytest.approx(1, abs=1e-6)
    assert (figures.l0, figures.dead_fraction) == (0, 1)
    assert evaluate(empty, np.ones((5, 4), np.float32)).fvu == 1


def test_wrong_rows(world):
    sae, _ = world
    with pytest.raises(UnboxError, match="width 5"):
        evaluate(sae, np.ones((4, 5), np.float32))
    with pytest.raises(UnboxError, match="no rows"):
        evaluate(sae, np.ones((0, 16), np.float32))
    with pytest.raises(UnboxError, match="there are rows of a, b"):
        evaluate(sae, {"a": noise(), "b": noise()})


def test_density_histogram():
    density = torch.tensor([0, 1e-8, 5e-6, 0.5, 1.0], dtype=torch.float64)
    assert density_histogram(density) == (2, 0, 1, 0, 0, 0, 0, 2)


def test_decoder_cosine():
    W = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    assert decoder_cosine(W)["mean"] == pytest.approx(0.5**0.5, abs=1e-6)
    assert decoder_cosine(torch.ones(1, 3))["mean"] == 0


def test_matching_finds_a_permutation():
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(40, 16, generator=generator)
    order = torch.randperm(40, generator=generator)
    found, cosines = matching(W, W[order])
    assert torch.equal(order[torch.from_numpy(found)], torch.arange(40))
    assert cosines == pytest.approx(np.ones(40), abs=1e-5)
    fewer, _ = matching(W, W[order][:30])
    assert torch.equal(torch.from_numpy(fewer), order[:30])


def test_agreement():
    W = torch.randn(30, 16, generator=torch.Generator().manual_seed(0))
    other = torch.randn(30, 16, generator=torch.Generator().manual_seed(1))
    saes = [SAE(w, w, torch.zeros(16), torch.zeros(30), 1, name=n) for n, w in (("a", W), ("b", other))]
    same, differ = agreement(saes[0], saes[0]), agreement(*saes)
    assert same.matched == pytest.approx(1, abs=1e-5)
    assert same.shared == 1
    assert differ.interval[0] < differ.matched < differ.interval[1]
    assert differ.matched <= differ.nearest + 1e-6
    assert differ.matched < 0.8
    assert [(a, b) for a, b, _ in seed_stability(saes)] == [("a", "b")]


def test_geometric_median_resists_outliers():
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    x[:40] = 1000.0
    median = geometric_median(x)
    assert median.norm() < 0.5
    assert x.mean(0).norm() > 100
    x, median = x.double(), median.double()
    steps = 1e-2 * torch.eye(3, dtype=torch.float64)
    least = (x - median).norm(dim=1).sum()
    assert all((x - median - s).norm(dim=1).sum() > least for s in (*steps, *-steps))


def test_active_subspace():
    basis = torch.linalg.qr(torch.randn(20, 3, generator=torch.Generator().manual_seed(0))).Q.T
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(1)) @ basis
    found = active_subspace(x)
    assert found.shape == (3, 20)
    assert torch.allclose(found @ found.T, torch.eye(3), atol=1e-5)
    assert torch.allclose(basis @ found.T @ found, basis, atol=1e-4)


def test_report(world, tmp_path):
    sae, rows = world
    write_report({"mid.0": evaluate(sae, rows), "flat": evaluate(sae, rows.array)}, tmp_path / "report")
    names = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert names == ["figures.json", "flat.png", "mid.0.png", "table.md"]
    assert "| mid.0 |" in (tmp_path / "report" / "table.md").read_text()
    figures = json.loads((tmp_path / "report" / "figures.json").read_text())
    assert Figures.from_json(figures["mid.0"]) == evaluate(sae, rows)
    assert Figures.from_json(figures["flat"]) == evaluate(sae, rows.array)


def test_positions_are_left_out_where_only_some_were_kept(world):
    sae, rows = world
    partial = Images(rows.cube, "mid.0")
    partial.positions = lambda i: np.array([3, 1, 2])
    assert evaluate(sae, partial).positions == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_no_numbers_have_no_figures(bad, world):
    """One among many, and all: an FVU of 0 would be the best."""
    sae, array = world[0], np.random.default_rng(0).normal(size=(50, world[0].width)).astype(np.float32)
    for some in (slice(7, 8), slice(None)):
        rows = array.copy()
        rows[some] = bad
        with pytest.raises(UnboxError, match=r"of 50 rows hold NaN or infinity"):
            evaluate(sae, ArrayRows(rows))
