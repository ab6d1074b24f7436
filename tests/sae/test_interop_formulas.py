"""dictionary_learning and overcomplete: against their formulas in NumPy, and the real packages."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from unbox.errors import UnboxError
from unbox.sae import SAE
from unbox.sae.interop import export_sae, import_sae

N, D, K, ROWS = 24, 16, 3, 40
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, D)).astype(np.float32)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def relu(pre):
    return np.maximum(pre, 0)


def winners(z, k):
    """z (B, n) with all but the k largest of each row set to 0."""
    kept = np.zeros_like(z)
    for row, values in enumerate(z):
        best = np.argsort(-values)[:k]
        kept[row, best] = values[best]
    return kept


LINEAR = {
    "encoder.weight": draw(N, D), "encoder.bias": draw(N), "decoder.weight": draw(D, N), "b_dec": draw(D),
    "k": np.int32(K), "threshold": np.float32(0.7),
}  # fmt: skip
MATRICES = {"W_enc": draw(D, N), "b_enc": draw(N), "W_dec": draw(N, D), "b_dec": draw(D)}


def linear(x, s):
    return relu((x - s["b_dec"]) @ s["encoder.weight"].T + s["encoder.bias"])


def gated(x, s):
    u = (x - s["decoder_bias"]) @ s["encoder.weight"].T
    return (u + s["gate_bias"] > 0) * relu(np.exp(s["r_mag"]) * u + s["mag_bias"])


#: Class -> (state, further settings, codes by its formula, decoder (n, d), decoder's bias).
DICTIONARY_LEARNING = {
    "AutoEncoderTopK": (LINEAR, {"k": K}, lambda x, s: winners(linear(x, s), K), "b_dec"),
    "BatchTopKSAE": (LINEAR, {"k": K}, lambda x, s: linear(x, s) * (linear(x, s) > 0.7), "b_dec"),
    "BatchTopKSAE before its threshold": (
        {**LINEAR, "threshold": np.float32(-1)}, {"k": K}, linear, "b_dec"
    ),
    "MatryoshkaBatchTopKSAE": (
        {**MATRICES, "k": np.int32(K), "threshold": np.float32(0.4), "group_sizes": np.array([8, 16])},
        {"k": K, "group_sizes": [8, 16], "group_fractions": [0.3, 0.7], "group_weights": [0.5, 0.5]},
        lambda x, s: (lambda z: z * (z > 0.4))(relu((x - s["b_dec"]) @ s["W_enc"] + s["b_enc"])),
        "b_dec",
    ),
    "JumpReluAutoEncoder": (
        {**MATRICES, "threshold": np.abs(draw(N))},
        {"target_l0": 4.2, "bandwidth": 0.001},
        lambda x, s: (lambda pre: relu(pre * (pre > s["threshold"])))(x @ s["W_enc"] + s["b_enc"]),
        "b_dec",
    ),
    "GatedAutoEncoder": (
        {"encoder.weight": draw(N, D), "decoder.weight": draw(D, N), "decoder_bias": draw(D)}
        | {name: draw(N) * 0.3 for name in ("r_mag", "gate_bias", "mag_bias")},
        {"sparsity_penalty": 0.1},
        gated,
        "decoder_bias",
    ),
}  # fmt: skip


def write_theirs(folder, name, state, settings):
    folder.mkdir()
    torch.save({key: torch.as_tensor(value) for key, value in state.items()}, folder / "ae.pt")
    trainer = {"dict_class": name.split()[0], "activation_dim": D, "dict_size": N, "lr": 1e-3, **settings}
    trainer["submodule_name"] = "unet.mid_block.attentions.0"
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"d_submodule": D}}))


@pytest.mark.parametrize("name", DICTIONARY_LEARNING)
def test_codes_of_dictionary_learning_are_its_formula(name, tmp_path):
    state, settings, formula, bias = DICTIONARY_LEARNING[name]
    write_theirs(tmp_path / "a", name, state, settings)
    sae = import_sae(tmp_path / "a")
    expected = formula(X, state)
    assert np.allclose(sae.encode(torch.from_numpy(X)).dense(N).numpy(), expected, atol=1e-4)
    assert 0 < (expected > 0).mean() < 1
    decoder = state["W_dec"] if "W_dec" in state else state["decoder.weight"].T
    decoded = sae(torch.from_numpy(X)).numpy()
    assert np.allclose(decoded, expected @ decoder + state[bias], atol=1e-3)
    assert sae.block == "mid.0"
    assert sae.k == {"JumpReluAutoEncoder": 4, "GatedAutoEncoder": 1}.get(name, K)


@pytest.mark.parametrize(
    ("state", "settings", "message"),
    [
        ({}, {"input_scale": 2.0}, "input_scale = 2.0: is not known here and may change codes"),
        ({}, {"k": 4}, "k is 4 in config.json and 3 in ae.pt"),
        ({}, {"dict_class": "AutoEncoderNew"}, "dict_class = 'AutoEncoderNew'"),
        ({}, {"activation_dim": 15}, "encoder.weight must be floats of shape"),
        ({"encoder.gain": draw(N)}, {}, "encoder.gain: not known here, and may change codes"),
        ({"b_dec": draw(D) * np.nan}, {}, "b_dec holds NaN"),
    ],
)
def test_what_is_not_understood_of_dictionary_learning_is_refused(state, settings, message, tmp_path):
    write_theirs(tmp_path / "a", "AutoEncoderTopK", {**LINEAR, **state}, {"k": K, **settings})
    with pytest.raises(UnboxError, match=message):
        import_sae(tmp_path / "a")


def overcomplete_state(encoder, jumps):
    state = {"dictionary._weights": draw(N, D), "dictionary.multiplier": np.float32(0.3)}
    names = {"linear": "encoder.final_block.0.", "untied": "encoder."}
    if encoder != "tied":
        state[names[encoder] + "weight"] = draw(N, D)
    if encoder != "untied":
        state[names.get(encoder, "encoder.") + "bias"] = draw(N)
    return state | ({"thresholds": draw(N) - 1} if jumps else {})


@pytest.mark.parametrize("encoder", ["linear", "untied", "tied"])
@pytest.mark.parametrize("normalization", ["l2", "max_l2", "l1", "max_l1", "identity"])
@pytest.mark.parametrize("kind", ["TopKSAE", "BatchTopKSAE", "JumpSAE"])
def test_codes_of_overcomplete_are_its_formula(kind, normalization, encoder, tmp_path):
    s = overcomplete_state(encoder, kind == "JumpSAE")
    weights, order = s["dictionary._weights"], 1 if normalization.endswith("l1") else 2
    norm = np.linalg.norm(weights, ord=order, axis=1, keepdims=True)
    scale = 1 if normalization == "identity" else norm.max() if normalization.startswith("max") else norm
    dictionary = weights / scale * np.exp(s["dictionary.multiplier"])
    W = next((v for key, v in s.items() if key.startswith("encoder") and key.endswith("weight")), dictionary)
    b = next((v for key, v in s.items() if key.endswith("bias")), 0)
    z = relu(X @ W.T + b)
    at = float(np.sort(z[z > 0])[5])  # codes at the threshold itself are active
    expected = {
        "TopKSAE": lambda: winners(z, K),
        "BatchTopKSAE": lambda: z * (z >= at),
        "JumpSAE": lambda: z * (z >= np.exp(s["thresholds"])),
    }[kind]()
    config = {"library": "overcomplete", "sae_class": kind, "input_shape": D, "nb_concepts": N}
    config |= {"normalization": normalization, "top_k": K, "running_threshold": at}
    torch.save({key: torch.as_tensor(value) for key, value in s.items()}, tmp_path / "sae.pth")
    (tmp_path / "config.json").write_text(json.dumps(config))
    sae = import_sae(tmp_path)
    found = sae.encode(torch.from_numpy(X)).dense(N).numpy()
    near = np.isclose(z, at, atol=1e-4) if kind == "BatchTopKSAE" else np.zeros_like(z, bool)  # of rounding
    assert np.allclose(np.where(near, 0, found), np.where(near, 0, expected), atol=1e-4)
    assert np.allclose(sae.decode(sae.encode(torch.from_numpy(X))).numpy(), found @ dictionary, atol=1e-3)


def test_a_code_at_the_threshold_of_overcomplete_is_active(tmp_path):
    state = {"dictionary._weights": torch.eye(2), "dictionary.multiplier": torch.tensor(0.0)}
    torch.save({**state, "encoder.weight": torch.eye(2)}, tmp_path / "sae.pth")
    config = {"library": "overcomplete", "sae_class": "BatchTopKSAE", "input_shape": 2, "nb_concepts": 2}
    (tmp_path / "config.json").write_text(json.dumps({**config, "running_threshold": 0.5}))
    below = torch.nextafter(torch.tensor(0.5), torch.tensor(0.0))
    found = import_sae(tmp_path).encode(torch.tensor([[0.5, float(below)]])).dense(2)
    assert found.tolist() == [[0.5, 0.0]]


def ours(threshold=None):
    generator = torch.Generator().manual_seed(1)
    W = torch.nn.functional.normalize(torch.randn(N, D, generator=generator), dim=1)
    b_pre, b_lat = (torch.randn(size, generator=generator) for size in (D, N))
    return SAE(W, W.roll(1, 0), b_pre, b_lat, K, "mid.0", "mid.0", threshold=threshold)


THRESHOLDS = [None, 0.6, tuple(np.linspace(0.1, 1.5, N).tolist())]
CLASSES = dict(zip(("AutoEncoderTopK", "BatchTopKSAE", "JumpReluAutoEncoder"), THRESHOLDS, strict=True))


@pytest.mark.filterwarnings("ignore:overcomplete's decoders have no bias")
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("kind", ["dictionary-learning", "overcomplete"])
def test_thresholds_go_out_and_come_back(kind, threshold, tmp_path):
    sae = ours(threshold)
    export_sae(sae, tmp_path / "a", kind)
    found = import_sae(tmp_path / "a")
    assert (found.threshold is None) == (threshold is None)
    x = torch.from_numpy(X)
    assert torch.allclose(found.encode(x).dense(N), sae.encode(x).dense(N), atol=1e-5)
    assert torch.allclose(found(x), sae(x), atol=1e-5)
    assert (found.k, found.block) == (K, "mid.0")


def test_an_export_without_its_bias_says_so(tmp_path):
    with pytest.warns(UserWarning, match="reconstructions are without b_pre"):
        export_sae(ours(), tmp_path / "a", "overcomplete")
    with warnings.catch_warnings():
        export_sae(replace(ours(), b_pre=torch.zeros(D)), tmp_path / "b", "overcomplete")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLASSES)
def test_real_dictionary_learning(name, tmp_path):
    pytest.importorskip("dictionary_learning", exc_type=ImportError)
    from dictionary_learning.utils import load_dictionary

    sae = ours(CLASSES[name])
    export_sae(sae, tmp_path / "a", "dictionary-learning")
    theirs, _ = load_dictionary(str(tmp_path / "a"), device="cpu")
    assert type(theirs).__name__ == name
    x = torch.from_numpy(X)
    with torch.no_grad():
        assert torch.allclose(theirs.encode(x), sae.encode(x).dense(N), atol=1e-5)
        assert torch.allclose(theirs(x), sae(x), atol=1e-5)
    torch.save(theirs.state_dict(), tmp_path / "a" / "ae.pt")
    assert torch.equal(import_sae(tmp_path / "a").W_enc, sae.W_enc)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("name", ["TopKSAE", "BatchTopKSAE", "JumpSAE"])
def test_real_overcomplete(name, untied, tmp_path):
    package = pytest.importorskip("overcomplete.sae", exc_type=ImportError)
    torch.manual_seed(0)
    theirs = getattr(package, name)(D, N, **({} if name == "JumpSAE" else {"top_k": K}))
    theirs = theirs.untied(bias=True) if untied else theirs
    config = {"library": "overcomplete", "sae_class": name, "input_shape": D, "nb_concepts": N, "top_k": K}
    x = torch.from_numpy(X)
    if name == "BatchTopKSAE":
        theirs.train().encode(x)
        config["running_threshold"] = float(theirs.running_threshold)
    torch.save(theirs.state_dict(), tmp_path / "sae.pth")
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs.eval()
    with torch.no_grad():
        _, codes, decoded = theirs(x)
    sae = import_sae(tmp_path)
    assert torch.allclose(sae.encode(x).dense(N), codes, atol=1e-5)
    assert torch.allclose(sae(x), decoded, atol=1e-5)
    if name == "TopKSAE" and not untied:  # and ours in theirs
        mine = replace(ours(), b_pre=torch.zeros(D))
        export_sae(mine, tmp_path / "ours", "overcomplete")
        theirs.train().load_state_dict(torch.load(tmp_path / "ours" / "sae.pth"))
        with torch.no_grad():
            _, codes, decoded = theirs.eval()(x)
        assert torch.allclose(codes, mine.encode(x).dense(N), atol=1e-5)
        assert torch.allclose(decoded, mine(x), atol=1e-5)
