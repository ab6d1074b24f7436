"""SAEs on disk: round trips, and files that should not be trusted."""

import json
import pickle
import struct
from dataclasses import replace
from typing import get_args

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from activation_store.files import digest
from tests.sae.worlds import noise
from unbox.errors import UnboxError
from unbox.sae import SAE, Plan, Spec, fit, load_saes, read_toml, specs, train
from unbox.sae.metric_trackers import TrackerName, rewind
from unbox.sae.sae_folder import CONFIG, TENSORS


@pytest.fixture(scope="module")
def sae():
    found = fit(noise(), 2, 24, variant="batchtopk", tokens=2000, batch_size=128, progress=False)
    return replace(
        found, block="mid.0", name="mid.0", meta={"training": {"lr": 1e-3}, "figures": {"fvu": 0.5}}
    )


@pytest.fixture
def folder(sae, tmp_path):
    sae.save(tmp_path / "mid.0")
    return tmp_path / "mid.0"


def test_round_trip(sae, folder):
    found = SAE.load(folder)
    x = torch.from_numpy(noise().array[:50])
    for ours, theirs in zip(sae.encode(x), found.encode(x), strict=True):
        assert torch.equal(ours, theirs)
    for name in ("k", "block", "name", "threshold", "update_std", "meta"):
        assert getattr(found, name) == getattr(sae, name)
    assert torch.equal(found.stats.mean_active, sae.stats.mean_active)
    assert "fvu | 0.5" in (folder / "README.md").read_text()
    sae.save(folder)  # the same: nothing to write
    with pytest.raises(UnboxError, match="exists already and differs"):
        replace(sae, k=sae.k - 1).save(folder)
    assert SAE.load(folder).k == sae.k
    sae.save(folder, overwrite=True)
    assert not list(folder.parent.glob(".*"))


def test_the_digest_is_that_of_the_weights_in_float32(sae):
    parts = (sae.W_enc, sae.W_dec, sae.b_pre, sae.b_lat)
    assert sae.digest == digest(b"".join(part.numpy().tobytes() for part in parts))
    assert (
        replace(sae, name="other", meta={}).digest == sae.digest != replace(sae, b_lat=sae.b_lat + 1).digest
    )


def test_load_saes(sae, tmp_path):
    replace(sae, name="a").save(tmp_path / "a")
    assert list(load_saes(tmp_path)) == ["mid.0"]
    replace(sae, name="b").save(tmp_path / "b")
    assert list(load_saes(tmp_path)) == ["a", "b"]
    assert list(load_saes(tmp_path / "b")) == ["mid.0"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnboxError, match="no SAE in"):
        load_saes(tmp_path / "empty")
    with pytest.raises(UnboxError, match="not a folder"):
        load_saes(tmp_path / "nowhere")


def edit_config(folder, **changes):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "sae import"),
        ({"version": 3}, "update it"),
        ({"k": 0}, "k = 0"),
        ({"latents": 10**12}, "latents = 1000000000000"),
        ({"latents": 25}, "shape"),
        ({"width": True}, "width = True"),
        ({"k": 25}, "k = 25: k is at most the latents, 24"),
        ({"threshold": "x"}, "threshold"),
        ({"threshold": [1, 2]}, r"threshold = .*: should be one for each of 24"),
        ({"threshold": [1] * 23 + ["x"]}, "threshold"),
        ({"threshold": "tensor"}, "lacks threshold"),
        ({"name": "x" * 301}, "name"),
        ({"more": 1}, "more = 1: is unknown"),
        ({"update_std": -1}, "update_std"),
        ({"meta": {"imported": 3}}, r"meta.imported = 3: should be an object"),
        ({"digest": "0"}, "damaged"),
        ({"meta": 3}, "meta"),
        ({"stats": False}, "stats"),
    ],
)
def test_crafted_config(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(UnboxError, match=message):
        SAE.load(folder)


@pytest.mark.parametrize("text", ["{", '{"format": NaN}', "[" * 10**5, "null", ""])
def test_config_that_is_not_json(folder, text):
    (folder / CONFIG).write_text(text)
    with pytest.raises(UnboxError, match=r"JSON|not of an SAE"):
        SAE.load(folder)


def swap_tensors(folder, data):
    (folder / TENSORS).write_bytes(data)
    edit_config(folder, digest=digest(folder / TENSORS))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Trap()),
        struct.pack("<Q", 200 << 20) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 4) + b"null",
        b"",
        struct.pack("<Q", 90)
        + b'{"W_enc":{"dtype":"F32","shape":[99999999,99999999],"data_offsets":[0,4]}}'.ljust(90),
    ],
)
def test_crafted_tensors_are_refused(folder, data):
    swap_tensors(folder, data)
    with pytest.raises(UnboxError, match=r"safetensors|lacks"):
        SAE.load(folder)


def test_nan_weights_and_flipped_bits_are_refused(folder):
    tensors = load_file(folder / TENSORS)
    tensors["b_lat"][3] = torch.nan
    save_file(tensors, folder / TENSORS)
    with pytest.raises(UnboxError, match="damaged"):
        SAE.load(folder)
    edit_config(folder, digest=digest(folder / TENSORS))
    with pytest.raises(UnboxError, match="b_lat holds NaN"):
        SAE.load(folder)


def test_feature(sae):
    feature = sae.feature(7)
    assert (feature.block, feature.index, feature.sae) == ("mid.0", 7, sae)
    assert replace(sae, name="other").feature(7).source == "other"
    for i in (-1, 24):
        with pytest.raises(UnboxError, match="it has 0 to 23"):
            sae.feature(i)


def test_codes_of_any_shape(sae):
    for one in (sae, sae.with_threshold(None)):
        x = torch.from_numpy(noise().array[:24]).view(2, 3, 4, 16)
        codes = one.encode(x)
        assert codes.values.shape[:-1] == codes.indices.shape[:-1] == (2, 3, 4)
        dense = codes.dense(24)
        assert torch.allclose(dense @ one.W_dec + one.b_pre, one.decode(codes), atol=1e-5)
        assert torch.allclose(codes.of(5), dense[..., 5])
        single = one.encode(x[1, 2, 3])
        assert torch.allclose(single.dense(24), dense[1, 2, 3], atol=1e-5)
    with pytest.raises(UnboxError, match="width 16"):
        sae.encode(torch.zeros(3, 8))
    assert sae.decode(sae.encode(torch.zeros(0, 16))).shape == (0, 16)


def test_plan_round_trip_and_toml(tmp_path):
    plan = Plan(saes=specs(["mid.0", "up.0.1"], k=[5, 10], latents=640, variant="matryoshka"), tokens=10**6)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    path = tmp_path / "plan.toml"
    path.write_text(
        "tokens = 1_000_000\naux = 0.0\n"
        '[[sae]]\nblock = ["mid.0", "up.0.1"]\nk = [5, 10]\nlatents = 640\n'
        '[[sae]]\nblock = "up.0.0"\nvariant = "matryoshka"\nk = 4\nlatents = 64\nlevels = [8, 64]\n'
    )
    found = read_toml(path)
    assert [spec.title for spec in found.saes] == [
        "mid.0_k5_n640",
        "mid.0_k10_n640",
        "up.0.1_k5_n640",
        "up.0.1_k10_n640",
        "up.0.0_k4_n64_matryoshka",
    ]
    assert found.saes[-1].levels == (8, 64)
    assert found.aux == 0.0
    assert found.names()[-1] == "up.0.0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokens = ", "not valid TOML"),
        ("", r"plan\.toml declares no SAE: each is a table headed \[\[sae\]\]"),
        ("tokens = 3\n", r"plan\.toml declares no SAE"),
        ("token = 3", r"plan\.toml: token = 3: is unknown, is it tokens\?"),
        ("[[sae]]\nkk = 3", r"plan\.toml: \[\[sae\]\] 1: kk = 3: is unknown, is it k\?"),
        ("sae = 3", r"sae = 3: SAEs are tables, each headed \[\[sae\]\]"),
        ("saes = [3]", r"saes = \[3\]: SAEs are tables, each headed \[\[sae\]\]"),
        ("[[sae]]\nk = 3.5", r"\[\[sae\]\] 1: k = 3.5: should be a whole number"),
        ("[[sae]]\nk = []", r"k = \[\]: should hold at least one value"),
        ("[[sae]]\nk = 4\n[[sae]]\nblock = 3", r"\[\[sae\]\] 2: block = 3: should be a name"),
        ("[[sae]]\nlevels = 3", "no meaning"),
        ("[[sae]]\nvariant = 'multik'\nlevels = [[1, 'x']]", r"levels\[1\] = 'x'"),
        ("[[sae]]\nk = 5\n[[sae]]\nk = 5", None),
    ],
)
def test_bad_toml(tmp_path, text, message):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    if message is None:
        with pytest.raises(UnboxError, match="more than once"):
            read_toml(path).names()
    else:
        with pytest.raises(UnboxError, match=message):
            read_toml(path)


def test_names_of_plan():
    assert Plan(saes=(Spec("mid.0"), Spec("up.0.1"))).names() == ["mid.0", "up.0.1"]
    assert Plan(saes=(Spec("mid.0"), Spec("mid.0", seed=1))).names() == [
        "mid.0_k10_n5120",
        "mid.0_k10_n5120_s1",
    ]


def test_the_card_is_one_of_the_hubs(sae, tmp_path):
    """The Hub's own reader finds library, tags and figures; without figures there are none."""
    sae.save(tmp_path / "mid.0")
    card = ModelCard.load(tmp_path / "mid.0" / "README.md")
    assert (card.data.library_name, card.data.model_name) == ("unbox", "mid.0")
    assert "sparse-autoencoder" in card.data.tags
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("fvu", 0.5)
    assert "| fvu | 0.5 |" in card.text
    assert "SAE.load" in card.text
    replace(sae, meta={}).save(tmp_path / "plain")
    assert ModelCard.load(tmp_path / "plain" / "README.md").data.eval_results is None


def test_metrics_are_rewound(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"sae": "a", "tokens": t} for t in (10, 20, 30)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"sae": "a", "tok')
    rewind(path, {"a": 20})
    assert [json.loads(line)["tokens"] for line in path.read_text().splitlines()] == [10, 20]


def scalars_of_tensorboard(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {name: [one.value for one in events.Scalars(name)] for name in events.Tags()["scalars"]}


def scalars_of_trackio(folder):
    from trackio.sqlite_storage import SQLiteStorage

    found = {}
    for row in SQLiteStorage.get_logs("unbox", folder.name):
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return found


def scalars_of_wandb(folder):
    """Of the offline run's own file: a LevelDB log of records, each with a length and a kind, in blocks."""
    from wandb.proto import wandb_internal_pb2 as records

    (path,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    data, at, payload, found = path.read_bytes(), 7, b"", {}
    while at + 7 <= len(data):
        if 32_768 - at % 32_768 < 7:
            at += 32_768 - at % 32_768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        payload, at = payload + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a whole record, or the last of its parts
            record, payload = records.Record.FromString(payload), b""
            for item in record.history.item:
                found.setdefault(item.key or "/".join(item.nested_key), []).append(
                    json.loads(item.value_json)
                )
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", get_args(TrackerName))
def test_a_tracker_is_told_what_the_file_says(name, tmp_path, monkeypatch):
    """Each really runs, where it is installed, without a network, and its own reader gives the lines back."""
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    options = {"tokens": 400, "batch_size": 100, "log_every": 200, "progress": False}
    train(noise(rows=500), tmp_path / "run", [Spec("", 2, 8)], trackers=[name], **options)
    found = globals()[f"scalars_of_{name}"](tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    for key in ("fvu", "tokens"):
        assert found[f"rows_k2_n8/{key}"] == pytest.approx([line[key] for line in lines], rel=1e-6)


def test_trackers(tmp_path):
    with pytest.raises(
        UnboxError, match=r"train: trackers.* = 'paper': should be one of 'tensorboard', 'trackio'"
    ):
        train(noise(), tmp_path / "run", [Spec("", 2, 8)], trackers=["paper"])
    assert not (tmp_path / "run").exists()
