"""Other packages' layouts: round trips give equal codes, with the real packages where they are installed."""

import json
import os
import warnings
from dataclasses import replace

import pytest
import torch

from tests.sae.worlds import noise
from unbox.errors import UnboxError
from unbox.sae import SAE, fit, hub
from unbox.sae.interop import FORMATS, export_sae, import_all, import_sae
from unbox.sae.safetensors_io import read_tensors, write_tensors

X = torch.from_numpy(noise().array[:200])


@pytest.fixture(scope="module")
def topk():
    return replace(
        fit(noise(), 3, 24, tokens=3000, batch_size=128, progress=False), block="mid.0", name="mid.0"
    )


@pytest.fixture(scope="module")
def jump():
    found = fit(noise(), 3, 24, variant="batchtopk", tokens=3000, batch_size=128, progress=False)
    return replace(found, block="mid.0", name="mid.0")


def same_codes(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.encode(X), b.encode(X), strict=True))


def near_codes(a, b):
    """Equal codes, but for the rounding of a bias that is folded into another and out again."""
    one, other = (sae.encode(X).dense(24) for sae in (a, b))
    return torch.allclose(one, other, atol=1e-5) and torch.equal(one > 0, other > 0)


#: Layouts that keep b_pre within b_lat.
FOLDED = {"overcomplete": near_codes}


@pytest.mark.filterwarnings("ignore:overcomplete's decoders have no bias")
@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "directions"])
def test_round_trip(kind, topk, tmp_path):
    export_sae(topk, tmp_path / "theirs", kind)
    assert [name for name, form in FORMATS.items() if form.recognises(tmp_path / "theirs")] == [kind]
    found = import_sae(tmp_path / "theirs", block="mid.0")
    same = FOLDED.get(kind, same_codes)
    assert same(topk, found)
    assert torch.allclose(topk.decode(topk.encode(X)), found.decode(found.encode(X)), atol=1e-5)
    assert found.meta["imported"]["format"] == kind
    before = [(path, path.stat().st_mtime_ns) for path in sorted((tmp_path / "theirs").rglob("*"))]
    export_sae(topk, tmp_path / "theirs", kind)  # the same: nothing to write
    with pytest.raises(UnboxError, match="exists already and differs"):
        export_sae(replace(topk, b_pre=topk.b_pre + 1), tmp_path / "theirs", kind)
    assert [(path, path.stat().st_mtime_ns) for path in sorted((tmp_path / "theirs").rglob("*"))] == before
    found.save(tmp_path / "ours")
    assert same(SAE.load(tmp_path / "ours"), topk)


def test_thresholds(jump, tmp_path):
    for kind in ("sdxl-unbox", "sparsify"):
        with pytest.raises(UnboxError, match="no threshold"):
            export_sae(jump, tmp_path / kind, kind)
        assert not (tmp_path / kind).exists()
    export_sae(jump, tmp_path / "saelens", "saelens")
    found = import_sae(tmp_path / "saelens")
    assert same_codes(jump, found)
    assert (found.k, found.block) == (3, "mid.0")
    each = jump.with_threshold(tuple(torch.linspace(0, 9, 24).tolist()))
    each.save(tmp_path / "ours")
    assert same_codes(SAE.load(tmp_path / "ours"), each)
    active = each.encode(X)
    assert (
        active.values[active.values > 0] > torch.linspace(0, 9, 24)[active.indices[active.values > 0]]
    ).all()


def test_published_folder_names_give_the_block_and_statistics(topk, tmp_path):
    names = {
        "unet.down_blocks.2.attentions.1_k10_hidden640_auxk256_bs4096_lr0.0001": "down.2.1",
        "unet.mid_block.attentions.0_k10_hidden640_auxk256_bs4096_lr0.0001": "mid.0",
    }
    for folder in names:
        (tmp_path / folder).mkdir()
        export_sae(topk, tmp_path / folder / "final", "sdxl-unbox")
    found = import_all(tmp_path)
    assert {name: sae.block for name, sae in found.items()} == names
    one = found[next(iter(names))]
    assert torch.equal(one.stats.mean_active, topk.stats.mean_active)
    assert one.meta["nominal_density"] is True
    living = topk.stats.mean_active > 0
    assert torch.allclose(one.stats.density, living * (3 / 24))


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize(
    "state", [Trap(), {"state_dict": Trap()}, {"state_dict": {"encoder.weight": 3}}, torch.zeros(3), {}]
)
def test_crafted_pickles_are_refused(state, topk, tmp_path):
    export_sae(topk, tmp_path / "theirs", "sdxl-unbox")
    torch.save(state, tmp_path / "theirs" / "state_dict.pth")
    with pytest.raises(UnboxError, match=r"refused|must be floats"):
        import_sae(tmp_path / "theirs")
    (tmp_path / "theirs" / "state_dict.pth").write_bytes(b"junk")
    with pytest.raises(UnboxError, match="refused"):
        import_sae(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("kind", "file", "changes", "message"),
    [
        (
            "saelens",
            "cfg.json",
            {"architecture": "gated"},
            "architecture = 'gated': should be one of 'topk' or 'jumprelu'",
        ),
        ("saelens", "cfg.json", {"normalize_activations": "layer_norm"}, "layer_norm"),
        ("saelens", "cfg.json", {"d_sae": 10**12}, "d_sae"),
        ("saelens", "cfg.json", {"d_in": 16.5}, "d_in = 16.5: should be a whole number"),
        ("saelens", "cfg.json", {"metadata": [1]}, "metadata = .* should be an object"),
        ("saelens", "cfg.json", {"k": None}, "k is missing"),
        ("saelens", "cfg.json", {"k": 25}, "k = 25"),
        ("saelens", "cfg.json", {"apply_b_dec_to_input": "no"}, "apply_b_dec_to_input = 'no'"),
        ("sparsify", "cfg.json", {"num_latents": "24"}, "num_latents = '24'"),
        ("sparsify", "cfg.json", {"num_latents": 0, "expansion_factor": 2**30}, "shape"),
        ("sparsify", "cfg.json", {"activation": "groupmax"}, "groupmax"),
        ("sparsify", "cfg.json", {"transcode": True}, "transcode"),
        ("sparsify", "cfg.json", {"k": 0}, "k = 0"),
        ("sdxl-unbox", "config.json", {"k": "x"}, "k = 'x'"),
        ("sdxl-unbox", "config.json", {"n_dirs_local": 25}, "shape"),
        ("saelens", "cfg.json", {"activation_fn_str": "tanh"}, "activation_fn_str = 'tanh': is not known"),
        ("saelens", "cfg.json", {"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
        ("sparsify", "cfg.json", {"signed": True}, "signed = True: is not known here and may change codes"),
        ("sdxl-unbox", "config.json", {"scale": 2}, "scale = 2: is not known"),
        ("dictionary-learning", "config.json", {"trainer": 3}, "trainer = 3"),
        ("overcomplete", "config.json", {"temperature": 2}, "temperature = 2: is not known"),
        ("overcomplete", "config.json", {"normalization": "max_linf"}, "normalization"),
        (
            "overcomplete",
            "config.json",
            {"decoder_bias": [1.0]},
            "decoder_bias has 1 numbers, input_shape is",
        ),
        ("overcomplete", "config.json", {"sae_class": "BatchTopKSAE"}, "running_threshold is missing"),
    ],
)
def test_what_is_not_understood_is_refused(kind, file, changes, message, topk, tmp_path):
    with warnings.catch_warnings(action="ignore"):
        export_sae(topk, tmp_path / "theirs", kind)
    config = json.loads((tmp_path / "theirs" / file).read_text())
    (tmp_path / "theirs" / file).write_text(json.dumps({**config, **changes}))
    with pytest.raises(UnboxError, match=message):
        import_sae(tmp_path / "theirs")


def test_no_layout(topk, tmp_path):
    with pytest.raises(
        UnboxError, match="there are sdxl-unbox, saelens, sparsify, dictionary-learning, overcomplete"
    ):
        import_sae(tmp_path)
    with pytest.raises(UnboxError, match="no layout 'other'"):
        export_sae(topk, tmp_path / "x", "other")


def test_saelens_options_are_folded_exactly(tmp_path):
    """`rescale_acts_by_decoder_norm` and `apply_b_dec_to_input`, against their definitions."""
    generator = torch.Generator().manual_seed(0)
    n, d, k = 24, 16, 3
    t = {
        "W_enc": torch.randn(d, n, generator=generator),
        "W_dec": torch.randn(n, d, generator=generator),
        "b_enc": torch.randn(n, generator=generator),
        "b_dec": torch.randn(d, generator=generator),
    }
    config = {"architecture": "topk", "d_in": d, "d_sae": n, "k": k, "apply_b_dec_to_input": False}
    config["rescale_acts_by_decoder_norm"] = True
    write_tensors(tmp_path / "sae_weights.safetensors", t)
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    found = import_sae(tmp_path)
    norm = t["W_dec"].norm(dim=1)
    pre = (X @ t["W_enc"] + t["b_enc"]) * norm
    top = pre.topk(k)
    z = torch.zeros_like(pre).scatter_(1, top.indices, top.values.relu())
    assert torch.allclose(found.encode(X).dense(n), z, atol=1e-4)
    assert torch.allclose(found.decode(found.encode(X)), (z / norm) @ t["W_dec"] + t["b_dec"], atol=1e-4)


def test_a_latent_without_a_direction_adds_nothing(tmp_path):
    """Scaled by the norm of its decoder row it is never over 0, as in their code."""
    rows = torch.eye(4, 3)
    t = {"W_enc": torch.ones(3, 4), "W_dec": rows, "b_enc": torch.ones(4), "b_dec": torch.zeros(3)}
    config = {"architecture": "topk", "d_in": 3, "d_sae": 4, "k": 4, "rescale_acts_by_decoder_norm": True}
    write_tensors(tmp_path / "sae_weights.safetensors", t)
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    found = import_sae(tmp_path)
    assert torch.equal(found.W_dec, rows)
    assert found.encode(torch.ones(1, 3)).dense(4).tolist() == [[4, 4, 4, 0]]
    write_tensors(
        tmp_path / "sae_weights.safetensors", {**t, "W_dec": rows * 1e38, "W_enc": t["W_enc"] * 1e3}
    )
    with pytest.raises(UnboxError, match="W_enc is too large for float32"):
        import_sae(tmp_path)


def test_a_published_folder_is_one_sae(topk, tmp_path):
    export_sae(topk, tmp_path / "a" / "final", "sdxl-unbox")
    assert list(import_all(tmp_path / "a")) == ["a"]
    assert list(import_all(tmp_path)) == ["a"]


def test_real_sparsify(topk, tmp_path):
    package = pytest.importorskip("sparsify")
    export_sae(topk, tmp_path / "out", "sparsify")
    theirs = package.SparseCoder.load_from_disk(tmp_path / "out")
    with torch.no_grad():
        acts = theirs.encode(X)
    order = acts.top_acts.sort(dim=1, descending=True)
    codes = topk.encode(X)
    assert torch.allclose(order.values, codes.values, atol=1e-4)
    theirs.save_to_disk(tmp_path / "again")
    assert same_codes(import_sae(tmp_path / "again"), topk)


@pytest.mark.filterwarnings("ignore")
def test_real_saelens(topk, jump, tmp_path):
    package = pytest.importorskip("sae_lens")
    for name, sae in (("topk", topk), ("jump", jump)):
        export_sae(sae, tmp_path / name, "saelens")
        theirs = package.SAE.load_from_disk(tmp_path / name)
        with torch.no_grad():
            dense, decoded = theirs.encode(X), theirs.decode(theirs.encode(X))
        assert torch.allclose(dense, sae.encode(X).dense(24), atol=1e-4)
        assert torch.allclose(decoded, sae.decode(sae.encode(X)), atol=1e-4)
        theirs.save_model(tmp_path / f"{name}-again")
        assert torch.equal(import_sae(tmp_path / f"{name}-again").W_enc, sae.W_enc)


def test_push_and_pull_move_only_our_files(topk, tmp_path, monkeypatch):
    """The Hub's client is real, its two calls that need a network are replaced by a folder."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    shelf = tmp_path / "hub"
    topk.save(tmp_path / "saes" / "mid.0")
    (tmp_path / "saes" / "secret.txt").write_text("no")

    def copy(source, target, patterns):
        names = [str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()]
        for name in filter_repo_objects(names, allow_patterns=patterns):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((source / name).read_bytes())

    def upload(self, *, repo_id, folder_path, allow_patterns, commit_message):
        copy(tmp_path / "saes", shelf, allow_patterns)

    def download(repo, revision, local_dir, allow_patterns):
        copy(shelf, tmp_path / "pulled", allow_patterns)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *a, **k: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.push(tmp_path / "saes", "me/saes") == "https://huggingface.co/me/saes"
    assert sorted(os.listdir(shelf / "mid.0")) == ["README.md", "config.json", "sae.safetensors"]
    assert not (shelf / "secret.txt").exists()
    (shelf / "evil.pth").write_bytes(b"x")
    assert same_codes(hub.pull("me/saes", tmp_path / "pulled")["mid.0"], topk)
    assert not (tmp_path / "pulled" / "evil.pth").exists()


def test_from_pretrained_fetches_one_sae_and_its_files_alone(topk, jump, tmp_path, monkeypatch):
    """Of a repository with several SAEs, the configurations and then one folder come down."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    shelf, cache, fetched = tmp_path / "shelf", tmp_path / "cache", []
    for name, sae in (("mid.0", topk), ("mid.0_batchtopk", jump), ("up", replace(topk, block="up.0.1"))):
        replace(sae, name=name).save(shelf / name)

    def download(repo, revision, local_dir, allow_patterns):
        assert (repo, revision, local_dir) == ("me/saes", "v1", None)
        names = [str(p.relative_to(shelf)) for p in shelf.rglob("*") if p.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            fetched.append(name)
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            (cache / name).write_bytes((shelf / name).read_bytes())
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = SAE.from_pretrained("me/saes", block="up.0.1", revision="v1")
    assert (found.name, found.block) == ("up", "up.0.1")
    assert {name for name in fetched if name.endswith("sae.safetensors")} == {"up/sae.safetensors"}
    with pytest.raises(UnboxError, match=r"several SAEs of block mid.0; there is mid.0, mid.0_b"):
        SAE.from_pretrained("me/saes", block="mid.0", revision="v1")
    found = SAE.from_pretrained("me/saes", block="mid.0", name="mid.0_batchtopk", revision="v1")
    assert found.identity == jump.identity
    with pytest.raises(UnboxError, match=r"no SAE of block down.2.1; there is mid.0, mid.0_batchtopk, up"):
        SAE.from_pretrained(shelf, block="down.2.1")  # a folder that is here
    assert SAE.from_pretrained(shelf / "mid.0").identity == topk.identity
    with pytest.raises(UnboxError, match="source"):
        SAE.from_pretrained("https://example.org/a")


def test_tensor_files_keep_to_what_is_expected(tmp_path):
    write_tensors(tmp_path / "a", {"x": torch.ones(2)})
    assert read_tensors(tmp_path / "a")["x"].tolist() == [1, 1]
    with pytest.raises(UnboxError, match="lacks y and has x"):
        read_tensors(tmp_path / "a", {"y": (2,)})
    with pytest.raises(UnboxError, match=r"shape \(2,\), \(3,\) was expected"):
        read_tensors(tmp_path / "a", {"x": (3,)})
