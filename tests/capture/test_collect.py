"""Collecting: the same rows whatever the batch, the ranks and the interruptions."""

import io
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

import unbox
from activation_store import Sample, Store, StoreError, Writer, verify
from activation_store.samples import prompts_digest
from tests.activation_store import fakes
from tests.capture import killed
from tests.capture.test_record import by_hand, plain_hooks
from unbox.capture import Stream, estimate, record
from unbox.capture.collect import collect_run, images_of_rank
from unbox.capture.collect_settings import CollectOptions
from unbox.capture.estimate import Estimate
from unbox.errors import UnboxError
from unbox.models.seeds import image_seed
from unbox.prompt import Prompt
from unbox.stopping import Stopped, stopping

PROMPTS, RUN = killed.PROMPTS, killed.RUN


def collect(model, path, prompts=PROMPTS, **settings):
    return unbox.collect(model, prompts, path, progress=False, **{**RUN, **settings})


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    return collect(model, tmp_path_factory.mktemp("store") / "s")


def test_a_store_holds_what_recording_one_image_at_a_time_gives(model, store):
    """Across batch sizes within rounding: float32's of the model, and float16's of the store."""
    assert store["down.2.1"].shape == (5, 2, 2, 8, 8, 128)
    assert store["up.1.0"].shape == (5, 2, 2, 16, 16, 64)
    seeds = [image_seed(9, i) for i in range(5)]
    assert [sample.seed for sample in store.samples] == seeds
    with record(model, RUN["blocks"]) as tape:
        images = model.generate(PROMPTS, seeds=seeds, steps=2, guidance=5.0, batch_size=1)
    for block in store.blocks:
        got = np.stack([store[block].read(i) for i in range(5)])
        assert np.abs(got - tape[block].numpy()).max() <= 2**-10 * np.abs(got).max()
    assert [sample.prompt for sample in store.samples][2:4] == ["a boat", "a house"]
    assert store.samples[2].meta == {"colour": "red"}
    picture = Image.open(io.BytesIO(store.thumbnail(3)))
    assert picture.format == "WEBP"
    difference = np.abs(np.asarray(picture.convert("RGB"), float) - np.asarray(images[3], float))
    assert picture.size == (64, 64)
    assert difference.mean() < 25


def test_a_float32_store_is_output_minus_input_to_the_last_bit(model, tmp_path):
    """Computed by hooks of the test's own, in the very same forwards; all blocks, both branches."""
    settings = {"blocks": model.blocks, "store_dtype": "float32", "thumbnail": None, "batch_size": 5}
    with plain_hooks(model) as seen:
        kept = collect(model, tmp_path, shard_samples=8, **settings)
    for block in model.blocks:
        got = np.stack([kept[block].read(i) for i in range(5)])
        assert np.array_equal(got, by_hand(seen[block], guided=True).numpy())


def test_batch_size_changes_only_rounding(model, store, tmp_path):
    """The stated bound: 1e-5 of the largest value, in float32."""
    one, four = (collect(model, tmp_path / str(n), batch_size=n, store_dtype="float32") for n in (1, 4))
    for block in one.blocks:
        a, b = (np.stack([s[block].read(i) for i in range(5)]) for s in (one, four))
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


def test_ranks_resuming_and_more_prompts_change_nothing(model, store, tmp_path, monkeypatch):
    collect(model, tmp_path, rank=1, world=2)
    assert Store.open(tmp_path).missing(5) == [(0, 2), (4, 5)]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert collect(model, tmp_path).digest == store.digest
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    other = tmp_path / "other"
    assert len(collect(model, other, limit=4)) == 4
    made = os.stat(other / "shards" / "00000" / "000000000-000000002.h5").st_mtime_ns
    assert collect(model, other).digest == store.digest
    assert os.stat(other / "shards" / "00000" / "000000000-000000002.h5").st_mtime_ns == made
    assert verify(other).good


def test_a_shard_that_was_cut_short_is_gone_on_with_and_no_image_is_made_twice(model, store, tmp_path):
    """Batches of images are others then, so that values agree to rounding."""
    three = collect(model, tmp_path, limit=3)
    before = {block: three[block].read_images(range(3)) for block in three.blocks}
    whole = collect(model, tmp_path)
    with pytest.raises(StoreError, match="replaced by a longer one; open the store again"):
        three.samples[2]
    for block in store.blocks:
        rows, kept = store[block].read_images(range(5)), whole[block].read_images(range(5))
        assert np.array_equal(kept[:3], before[block])
        assert np.abs(kept - rows).max() <= 2**-10 * np.abs(rows).max()
    assert [sample.seed for sample in whole.samples] == [sample.seed for sample in store.samples]
    assert verify(tmp_path).good


@pytest.mark.parametrize(
    ("prompts", "settings", "said"),
    [
        (PROMPTS, {"seed": 10}, "seed was 9, is 10"),
        (PROMPTS, {"guidance": 3.0}, r"guidance was 5\.0, is 3\.0"),
        (PROMPTS, {"steps": 3}, "steps was 2, is 3"),
        (PROMPTS, {"height": 128}, r"height was 64, is 128; blocks down\.2\.1 was 8x8x128, is 16x8x128"),
        (PROMPTS, {"blocks": ("mid.0", "up.1.0")}, r"blocks down\.2\.1 was 8x8x128, is none"),
        (PROMPTS, {"what": ("update", "input")}, r"blocks down\.2\.1\.input was none, is 8x8x128"),
        (PROMPTS, {"store_dtype": "int8"}, "store_dtype was float16, is int8"),
        (PROMPTS, {"keep_steps": (1,)}, r"kept steps was \[0, 1\], is \[1\]"),
        (PROMPTS, {"shard_samples": 4}, "shard_samples was 2, is 4"),
        (["a dog", *PROMPTS], {}, r"image 1 was 'a cat' .*, is 'a dog'"),
        (PROMPTS[::-1], {}, "image 0 was 'a dog' .*, is 'moon and star'"),
        (["a moon"], {}, "image 0 was 'a dog' .*, is 'a moon'"),
        ([*PROMPTS[:2], Prompt("a boat", {"colour": "blue"})], {}, 'image 2 was .*"red".*, is .*"blue"'),
    ],
)
def test_another_run_in_the_same_folder_is_refused_by_name(model, store, prompts, settings, said):
    digest = store.digest
    with pytest.raises((UnboxError, StoreError), match=said):
        collect(model, store.path, prompts=prompts, **settings)
    assert Store.open(store.path).digest == digest


def test_a_rank_is_told_of_prompts_that_another_rank_was_given(model, tmp_path):
    collect(model, tmp_path, rank=0, world=2)
    with pytest.raises(StoreError, match=r"image 0 was 'a dog' .*, is 'moon and star'"):
        collect(model, tmp_path, prompts=PROMPTS[::-1], rank=1, world=2)


def test_a_model_of_other_weights_or_strengths_is_refused_and_one_of_another_name_goes_on(
    folder, model, store, tmp_path
):
    other = unbox.models.Model(model.pipeline, replace(model.system, title="Another title"), "elsewhere")
    assert collect(other, store.path).digest == store.digest
    changed = unbox.load(folder, device="cpu")
    with torch.no_grad():
        changed.block("up.1.0").proj_out.weight.mul_(2)
    with pytest.raises(UnboxError, match=r"model weights unet was [0-9a-f]{40}"):
        collect(unbox.models.Model(changed.pipeline, changed.system), store.path)


def test_fewer_prompts_with_the_same_beginning_have_nothing_to_do_and_that_is_said(model, store):
    done = collect_run(model, PROMPTS[:3], store.path, CollectOptions(progress=False, **RUN))
    assert done.made == 0
    said = "nothing to make: this process's images of the 3 prompts are there; it holds 2 beyond"
    assert done.lines()[0].startswith(said)
    with pytest.warns(UserWarning, match=said):
        assert len(collect(model, store.path, prompts=PROMPTS[:3])) == 5


def test_batches_are_as_large_as_was_asked_whatever_the_shards(model, tmp_path, monkeypatch):
    """The pipeline's own calls are counted, at four steps; each rank's batches go over its shards."""
    calls = []
    pipeline = type(model.pipeline)
    original = pipeline.__call__
    monkeypatch.setattr(
        pipeline, "__call__", lambda *a, **k: calls.append(len(k["prompt"])) or original(*a, **k)
    )
    run = RUN | {"steps": 4, "guidance": 0.0, "blocks": ("mid.0",), "thumbnail": None, "shard_samples": 4}
    run |= {"height": 32, "width": 32, "batch_size": 32, "progress": False}
    prompts = [f"a dog {n}" for n in range(36)]
    whole = unbox.collect(model, prompts, tmp_path / "1", **run)
    assert calls == [32, 4]
    calls.clear()
    part = unbox.collect(model, prompts, tmp_path / "2", rank=1, world=2, **run)
    assert calls == [16]
    same = [sample.index for sample in part.samples]
    rows, others = whole["mid.0"].read_images(same), part["mid.0"].read_images(range(16))
    assert np.abs(rows - others).max() <= 2**-10 * np.abs(rows).max()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_keeps_every_finished_batch_and_ends_within_a_step(model, tmp_path, number):
    """A signal in the second step of the third batch; two batches of an unfinished shard are kept."""
    forwards = []

    def stop(*_):
        forwards.append(1)
        if len(forwards) == 6:
            signal.raise_signal(number)

    run = RUN | {"shard_samples": 8}
    handle = model.unet.register_forward_pre_hook(stop)
    with stopping(), pytest.raises(Stopped):
        unbox.collect(model, PROMPTS * 2, tmp_path, progress=False, **run)
    handle.remove()
    assert len(forwards) == 6
    assert len(Store.open(tmp_path)) == 4
    assert len(unbox.collect(model, PROMPTS * 2, tmp_path, progress=False, **run)) == 10
    assert verify(tmp_path).good


def test_a_stop_while_the_last_images_are_written_loses_none(model, tmp_path, monkeypatch):
    original = Writer.__exit__

    def told(writer, *error):
        signal.raise_signal(signal.SIGTERM)
        return original(writer, *error)

    monkeypatch.setattr(Writer, "__exit__", told)
    with stopping(), pytest.raises(Stopped):
        collect(model, tmp_path)
    assert len(Store.open(tmp_path)) == 5


def test_steps_branches_and_positions_may_be_chosen(model, store, tmp_path):
    part = collect(model, tmp_path / "a", keep_steps=(1,), branches=("uncond",), thumbnail=None)
    assert (part["up.1.0"].steps, part["up.1.0"].branches) == ((1,), ("uncond",))
    some = collect(model, tmp_path / "b", positions=9)
    assert some["up.1.0"].shape == (5, 2, 2, 1, 9, 64)
    for i in (0, 4):
        whole = store["up.1.0"].read(i)
        assert np.array_equal(part["up.1.0"].read(i), whole[1:, 1:])
        kept = some["up.1.0"].positions(i)
        assert len(set(kept)) == 9
        assert np.array_equal(some["up.1.0"].read(i)[:, :, 0], whole.reshape(2, 2, 256, 64)[:, :, kept])
    assert some["up.1.0"].positions(0).tolist() != some["up.1.0"].positions(1).tolist()
    with pytest.raises(StoreError, match="without thumbnails"):
        part.thumbnail(0)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_other_number_formats(model, store, tmp_path, dtype):
    other = collect(model, tmp_path, store_dtype=dtype, limit=2)
    a, b = store["up.1.0"].read(1), other["up.1.0"].read(1)
    assert np.abs(a - b).max() <= 2**-7 * np.abs(a).max()


def test_the_former_name_of_the_number_format_works_and_says_the_new_one(model, tmp_path):
    with pytest.warns(DeprecationWarning, match="dtype= is now called store_dtype="):
        store = collect(model, tmp_path, dtype="float32")
    assert store.schema.dtype == "float32"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": ("mid.3",)}, "no block 'mid.3'"),
        ({"keep_steps": (2,)}, "step 2 is not of a run of 2 steps"),
        ({"guidance": 0.0, "branches": ("uncond",)}, "branches: uncond does not occur at guidance 0"),
        ({"batch_size": 0}, "at least 1"),
        ({"prompts": [Prompt("x", {"a": {1, 2}})]}, "facts of prompt 0 cannot be kept as JSON"),
        ({"prompts": [Prompt("x", {"a": float("nan")})]}, "facts of prompt 0"),
        ({"prompts": ["a dog", 7]}, "prompt 1: text = 7: should be a text"),
    ],
)
def test_what_cannot_be_collected_is_named(model, tmp_path, settings, message):
    with pytest.raises(UnboxError, match=message):
        collect(model, tmp_path, **settings)


def test_an_update_over_float16_stops_with_a_clear_error_and_keeps_what_was_done(folder, tmp_path):
    model = unbox.load(folder, device="cpu")
    collect(model, tmp_path, limit=2)
    with torch.no_grad():
        model.block("up.1.0").proj_out.weight.mul_(1e6)
    model = unbox.models.Model(model.pipeline, model.system)  # hashes are kept once computed
    with pytest.raises(StoreError, match=r"up\.1\.0 in image 0 .*bfloat16 or float32"):
        collect(model, tmp_path / "b")
    assert len(Store.open(tmp_path)) == 2


def test_a_stream_gives_the_rows_of_the_store_without_a_disk(model, store):
    settings = {key: RUN[key] for key in ("steps", "guidance", "batch_size", "seed")}
    stream = Stream(model, PROMPTS, "down.2.1", **settings)
    rows = store["down.2.1"]
    assert (len(stream), stream.width, stream.shape) == (len(rows), rows.width, rows.shape)
    batches = stream.batches(300, seed=2, pool_bytes=100_000)
    first = [next(batches), next(batches)]
    cursor = batches.cursor
    rest = list(batches)
    got = np.concatenate([*first, *rest])
    truth = np.concatenate([rows.read(i).reshape(-1, 128) for i in range(5)])
    assert np.array_equal(got[np.lexsort(got.T)], truth[np.lexsort(truth.T)])
    again = list(stream.batches(300, seed=2, pool_bytes=100_000, cursor=cursor))
    assert all(map(np.array_equal, again, rest))
    with unbox.record(model, ["mid.0"]), pytest.raises(UnboxError, match="take its batches outside"):
        next(stream.batches(300))  # which another thread would wait to generate
    some = stream.sample(40, seed=1)
    assert {row.tobytes() for row in some} <= {row.tobytes() for row in truth}
    assert len(some) == 40
    sae = unbox.fit(stream, k=4, latents=32, tokens=600, batch_size=64, progress=False)
    assert (sae.width, sae.latents) == (128, 32)


def test_the_bar_counts_the_images_of_the_rank_and_its_speed_only_new_ones(model, tmp_path, monkeypatch):
    assert [images_of_rank(11, 2, rank, 3) for rank in range(3)] == [4, 4, 3]
    assert images_of_rank(3, 4, 1, 2) == 0
    bars = []
    module = sys.modules["unbox.capture.collect"]  # as an attribute of the package it is the function
    monkeypatch.setattr(module, "tqdm", lambda **kwargs: bars.append(tqdm(**kwargs)) or bars[-1])
    for limit, rank, world in ((4, 0, 1), (5, 0, 1), (5, 1, 2)):
        unbox.collect(model, PROMPTS, tmp_path, limit=limit, rank=rank, world=world, **RUN)
    counted = [(bar.total, bar.n, bar.initial) for bar in bars]
    assert counted == [(4, 4, 0), (5, 5, 4), (2, 2, 2)]  # rank 1 of 2 has the second of the three shards
    monkeypatch.setenv("LOCAL_RANK", "1")
    unbox.collect(model, PROMPTS, tmp_path, **RUN)
    assert bars[-1].disable


def test_an_estimate_tells_vectors_and_bytes_and_writes_nothing(model, tmp_path):
    found = estimate(model, PROMPTS, images=2, **RUN)
    assert found.vectors_per_image == 2 * 2 * (64 + 256)
    assert found.bytes_per_image == 2 * 2 * (64 * 128 + 256 * 64) * 2
    assert found.images == 5
    assert found.seconds_per_image > 0
    text = "\n".join(found.lines(gpus=4))
    assert "5 images: 6,400 vectors" in text
    assert "4 such devices" in text
    collected = collect(model, tmp_path / "s")
    written = sum(path.stat().st_size for path in (tmp_path / "s").rglob("*") if path.is_file())
    assert abs(found.bytes_in_all / written - 1) < 0.02
    with pytest.raises(UnboxError, match="cannot write to"):
        estimate(model, PROMPTS, beside=collected.path / "store.json" / "x", **RUN)
    with pytest.raises(UnboxError, match="no prompt"):
        estimate(model, [])


@pytest.mark.slow
def test_fifty_kills_at_random_moments_of_a_real_collection_change_no_byte(folder, tmp_path):
    """Each is killed with SIGKILL while it generates, encodes or writes; see `tests.capture.killed`."""
    words = [str(folder), str(tmp_path), "50"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.capture.killed", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stores, cut = map(int, done.stdout.split()[-2:])
    assert cut >= 40  # processes that were killed before their store was whole
    whole = Store.open(tmp_path / "whole")
    assert len(whole) == 2 * len(PROMPTS)
    for number in range(stores):
        folder = tmp_path / str(number)
        assert verify(folder).good
        assert Store.open(folder).digest == whole.digest
        assert fakes.contents(folder) == fakes.contents(whole.path)


@pytest.mark.slow
def test_two_processes_of_torchrun_write_what_one_writes(folder, tmp_path):
    (tmp_path / "p.txt").write_text("\n".join(f"a dog {n}" for n in range(7)))
    words = f"unbox collect --model {folder} --prompts {tmp_path}/p.txt --steps 1 --guidance 5 --device cpu"
    torchrun = "-m torch.distributed.run --standalone --nproc-per-node 2"
    for name, launcher in (("one", ""), ("two", torchrun)):
        line = f"{launcher} -m {words} --batch-size 2 --positions 256 --store {tmp_path}/{name}"
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", *line.split()]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (Store.open(tmp_path / name) for name in ("one", "two"))
    assert len(two) == 7
    assert two.digest == one.digest


LONG = "a red cat " * 40


def test_prompts_that_are_cut_off_are_counted_once_and_recorded(model, tmp_path):
    """The fact follows from the prompt: stores of versions without it go on."""
    prompts = ["a cat", LONG, "a dog", LONG]
    options = {"blocks": ["mid.0"], "steps": 1, "guidance": 0.0, "shard_samples": 2, "keep_steps": None}
    said = "2 of 4 prompts are longer than the 77 tokens that the text encoders read"
    with pytest.warns(UserWarning, match=said) as caught:
        store = collect(model, tmp_path / "store", prompts, **options)
    assert sum(each.category is UserWarning for each in caught) == 1
    assert [dict(sample.meta) for sample in store.samples] == [{}, {"tokens_cut": 45}] * 2
    assert verify(tmp_path / "store").good
    before = [Sample(each.index, each.prompt, each.seed) for each in store.samples]
    assert prompts_digest(before) == prompts_digest(list(store.samples))
    assert (
        collect(model, tmp_path / "store", prompts, **options).digest == store.digest
    )  # none made, none said
    with pytest.warns(UserWarning, match=said) as caught:
        collect(model, tmp_path / "streamed", iter(prompts), **options)
    assert sum(each.category is UserWarning for each in caught) == 1
    plan = estimate(model, prompts, blocks=["mid.0"], steps=1, guidance=0.0)
    assert plan.lines()[-1].startswith(said)
    assert estimate(model, ["a cat"], blocks=["mid.0"], steps=1, guidance=0.0).cut == ""
    with pytest.raises(UnboxError, match="tokens_cut of prompt 0 is counted by collecting"):
        collect(model, tmp_path / "other", [Prompt("a", {"tokens_cut": 3})], **options)


def test_a_plan_for_several_devices_takes_as_long_as_the_one_with_most_files():
    plan = Estimate(
        images=600, vectors_per_image=1, bytes_per_image=1, bytes_in_all=600, seconds_per_image=2.0,
        seconds_beside=10.0, timed=8, batch_size=8, shard_samples=256, axes={}, host_bytes=1, waiting_bytes=1,
        device_bytes=None,
    )  # fmt: skip
    assert [plan.seconds(devices) for devices in (1, 2, 3, 8)] == [1210.0, 698.0, 522.0, 522.0]
    assert any("3 files of 256 images, at most 1 for each device" in line for line in plan.lines(8))
