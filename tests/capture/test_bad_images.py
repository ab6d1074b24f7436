"""Images that compute NaN or infinite numbers, among others: a word's embedding is spoilt."""

import numpy as np
import pytest
import torch

import unbox
from activation_store import Store, StoreError, verify
from unbox.capture import collect
from unbox.capture.collect import collect_run
from unbox.capture.collect_settings import CollectOptions
from unbox.errors import UnboxError
from unbox.models import Model
from unbox.models.float32 import float32_bytes, in_float32

RUN = {"blocks": ("mid.0",), "steps": 1, "guidance": 0.0, "seed": 9, "thumbnail": None, "progress": False}
RUN |= {"height": 32, "width": 32}


def spoil(model: Model, word: str, value: float) -> Model:
    """The embedding of a word in both text encoders is `value`: prompts with it compute nothing good."""
    pipeline = model.pipeline
    for tokenizer, encoder in (
        (pipeline.tokenizer, pipeline.text_encoder),
        (pipeline.tokenizer_2, pipeline.text_encoder_2),
    ):
        token = tokenizer(word).input_ids[1]
        with torch.no_grad():
            encoder.get_input_embeddings().weight[token] = value
    return model


@pytest.fixture(scope="module")
def nan_model(folder):
    return spoil(unbox.load(folder, device="cpu"), "z", float("nan"))


PROMPTS = [f"a dog {n}" for n in range(10)]
BAD = [*PROMPTS[:4], "z", *PROMPTS[5:7], "a z", *PROMPTS[8:]]


def test_one_bad_image_among_a_hundred_leaves_the_others_and_is_not_tried_again(nan_model, tmp_path):
    prompts = [f"a dog {n}" for n in range(100)]
    prompts[57] = "z"
    run = RUN | {"batch_size": 32, "shard_samples": 16}
    done = collect_run(nan_model, prompts, tmp_path, CollectOptions(on_bad="skip", **run))
    assert (len(done.store), done.made) == (99, 100)
    assert "the prediction of step 0 is NaN or infinite" in done.store.absent[57]
    assert 57 not in [sample.index for sample in done.store.samples]
    assert np.isfinite(done.store["mid.0"].read_images(range(99))).all()
    assert verify(tmp_path).good
    assert done.lines()[1].startswith("absent: 1 images (57), the first as the prediction")
    again = collect_run(nan_model, prompts, tmp_path, CollectOptions(on_bad="skip", **run))
    assert (again.made, again.store.digest) == (0, done.store.digest)


def test_a_batch_with_bad_images_gives_the_others_as_they_are_alone(nan_model, tmp_path):
    with pytest.warns(UserWarning, match=r"absent: 2 images \(4, 7\)"):
        skipped = collect(nan_model, BAD, tmp_path / "s", on_bad="skip", batch_size=10, **RUN)
    good = collect(nan_model, PROMPTS, tmp_path / "g", batch_size=1, **RUN)
    rows = good["mid.0"].read_images([0, 1, 2, 3, 5, 6, 8, 9])
    assert [sample.index for sample in skipped.samples] == [0, 1, 2, 3, 5, 6, 8, 9]
    assert np.abs(skipped["mid.0"].read_images(range(8)) - rows).max() <= 2**-10 * np.abs(rows).max()
    other = collect_run(nan_model, BAD, tmp_path / "3", CollectOptions(on_bad="skip", batch_size=3, **RUN))
    assert other.absent == skipped.absent


def test_a_bad_image_stops_the_run_by_its_number_and_those_before_are_kept(nan_model, tmp_path):
    with pytest.raises(UnboxError, match=r"image 4 of the run: the prediction of step 0 .*--on-bad skip"):
        collect(nan_model, BAD, tmp_path, batch_size=2, **RUN)
    assert len(Store.open(tmp_path)) == 4


def test_an_update_over_the_formats_range_is_absent(folder, tmp_path):
    model = unbox.load(folder, device="cpu")
    with torch.no_grad():
        model.block("mid.0").proj_out.bias.fill_(70_000)
    model = Model(model.pipeline, model.system)
    with pytest.raises(
        StoreError, match=r"mid\.0 in image 0 reaches .*, over the largest float16|NaN or inf"
    ):
        collect(model, PROMPTS[:2], tmp_path / "stop", **RUN)
    with pytest.warns(UserWarning, match="absent: 2 images"):
        store = collect(model, PROMPTS[:2], tmp_path / "skip", on_bad="skip", **RUN)
    assert (len(store), set(store.absent)) == (0, {0, 1})


def test_what_overflows_in_half_precision_is_made_again_in_float32(folder, tmp_path):
    """A word of 30,000 everywhere: over float16 in the cross-attention, finite in float32."""
    half = spoil(unbox.load(folder, device="cpu", dtype="float16"), "z", 3e4)
    before = half.weight_hashes()
    run = RUN | {"batch_size": 4, "store_dtype": "float32"}
    with pytest.raises(UnboxError, match="image 4, 7 of the run"):
        collect(half, BAD, tmp_path / "stop", **run)
    again = pytest.warns(UserWarning, match=r"made again in float32: 2 images \(4, 7\)")
    with pytest.warns(UserWarning, match="MB of weights in float32 instead of"), again:
        store = collect(half, BAD, tmp_path / "half", on_bad="float32", **run)
    assert (len(store), store.absent) == (10, {})
    assert half.weight_hashes() == before
    wide = spoil(unbox.load(folder, device="cpu", dtype="float16"), "z", 3e4)
    with in_float32(wide):
        truth = collect(wide, BAD, tmp_path / "wide", **run)
    for number in (4, 7):
        rows = truth["mid.0"].read(number)
        assert np.abs(store["mid.0"].read(number) - rows).max() <= 1e-5 * np.abs(rows).max()


def test_an_image_that_is_bad_in_float32_too_is_absent(folder, tmp_path):
    half = spoil(unbox.load(folder, device="cpu", dtype="bfloat16"), "z", float("nan"))
    now, wide = float32_bytes(half)
    assert wide == 2 * now > 0
    absent = pytest.warns(UserWarning, match="absent: 1 images")
    with pytest.warns(UserWarning, match="made again alone"), absent:
        store = collect(half, ["a dog", "z"], tmp_path, on_bad="float32", batch_size=2, **RUN)
    assert store.absent[1].endswith("; in float32 too")
    assert len(store) == 1
