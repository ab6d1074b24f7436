"""`unbox verify`: what each check says of a model that is right, and of models that are spoilt on purpose."""

import json
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import torch

from tests.edits.dictionaries import random_sae
from tests.models.test_schedules import alphas_bar
from tests.models.tiny import tiny_pipeline, tiny_refiner
from unbox.errors import UnboxError
from unbox.experiments.verify import run_verify, sampling_checks
from unbox.experiments.verify.ablation_strip import ablations
from unbox.experiments.verify.check_outcome import CheckFinding, CheckOutcome, exit_code
from unbox.experiments.verify.run_verify import CHECKS, absent, verify
from unbox.experiments.verify.sae_checks import PAPER, RecordedRows, explained
from unbox.experiments.verify.sigma_formula import formula_of
from unbox.experiments.verify.subject import Subject, difference
from unbox.experiments.verify.verify_options import VerifyOptions
from unbox.models import SYSTEMS, load
from unbox.sae import evaluate
from unbox.sae.interop import export_sae
from unbox.sae.interop.sdxl_unbox import folder_name

OPTIONS = VerifyOptions(prompt=("a cat", "a dog"), repeats=1, height=64, width=64)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def subject(home):
    """SDXL Turbo's settings on a tiny SDXL, one step, with an SAE; each test may spoil it."""
    model = load(home, device="cpu", system=replace(SYSTEMS["sdxl-turbo"], size=64))
    sae = replace(random_sae("mid.0", width=128, latents=32, k=4), meta={"figures": {"fvu": 1000.0}})
    return Subject(model, {"mid.0": sae}, OPTIONS, fetch=False)


def evidence(page):
    """The JSON of a page, read as a browser's script would."""
    text = page.read_text(encoding="utf-8").partition('id="evidence">')[2].partition("</script>")[0]
    return json.loads(text)


def test_a_right_model_passes_and_the_page_holds_it_all(subject, tmp_path):
    said = []
    found = verify(subject, said.append)
    assert [outcome.finding.verdict for outcome in found.outcomes] == ["pass"] * len(CHECKS), said
    assert found.code == 0
    assert len(said) == len(CHECKS)
    page = found.write(tmp_path / "new" / "verify.html")
    told = evidence(page)
    assert {check["name"] for check in told["checks"]} == {check.name for check in CHECKS}
    assert told["machine"]["torch"] == torch.__version__
    hashes = next(check for check in told["checks"] if check["name"] == "weights")["figures"]["sha256"]
    assert hashes == subject.model.weight_hashes()
    assert len(told["pictures"]) == 1 + 2 * 5
    text = unescape(page.read_text(encoding="utf-8"))
    assert text.count("<img ") == len(told["pictures"])
    assert 'src="http' not in text
    assert SYSTEMS["sdxl-turbo"].licence in text
    assert str(tmp_path) not in text
    assert page.stat().st_size < 3e6
    assert subject.model.clock is None


def test_spoilt_weights_are_found(subject):
    with torch.no_grad():
        subject.model.unet.conv_in.weight[0, 0, 0, 0] = float("nan")
    finding = sampling_checks.weights(subject)
    assert finding.verdict == "fail"
    assert "in the weights of unet" in finding.reason
    whole = {outcome.name: outcome.finding for outcome in verify(subject, lambda line: None).outcomes}
    assert whole["picture"].verdict == "fail"  # refused by the run, and said with its reason
    assert "NaN" in whole["picture"].reason
    assert run_verify.exit_code(verify(subject, lambda line: None).outcomes) == 1


def test_a_hook_of_another_kind_in_the_model_is_found(subject):
    """What changes under recording: a model whose block computes otherwise while it is watched."""
    block = subject.model.block("mid.0")

    def nudges(module, args, output):
        return (output[0] + 0.01,) if subject.model.clock is not None else None

    handle = block.register_forward_hook(nudges)
    finding = sampling_checks.hooks(subject)
    handle.remove()
    assert finding.verdict == "fail"
    assert finding.figures["generate"] > 0
    assert sampling_checks.hooks(replace(subject)).verdict == "pass"


def test_a_device_that_does_not_repeat_itself_is_not_blamed_on_hooks(subject):
    noise = torch.Generator().manual_seed(0)
    handle = subject.model.block("mid.0").register_forward_hook(
        lambda module, args, output: (output[0] + 1e-3 * torch.randn(output[0].shape, generator=noise),)
    )
    assert sampling_checks.repeats(subject).verdict == "fail"
    assert sampling_checks.hooks(subject).verdict == "not possible here"
    assert sampling_checks.identity(subject).verdict == "not possible here"
    handle.remove()


def test_edits_that_should_change_nothing_and_do_are_found(subject, monkeypatch):
    monkeypatch.setattr(sampling_checks, "UNREACHED", -1e30)  # now every place is over it
    finding = sampling_checks.identity(subject)
    assert finding.verdict == "fail"
    assert finding.figures["updates times 1"] == 0
    assert finding.figures["features over a bound that none reaches"] > 0


@pytest.mark.parametrize("change", [{"beta_end": 0.0121}, {"timestep_spacing": "leading"}])
def test_another_schedule_is_found(subject, change, monkeypatch):
    """The formula is of the configuration: a scheduler that lays another table than that is found."""
    config, kind = subject.model.pipeline.scheduler.config, type(subject.model.pipeline.scheduler)
    wrong = kind.from_config(config, **change)
    monkeypatch.setattr(kind, "from_config", classmethod(lambda cls, config: wrong))
    finding = sampling_checks.sigmas(subject)
    assert finding.verdict == "fail"


def test_the_formula_is_the_published_table():
    """Eight trailing steps of SDXL; NovelAI V3's 28 on k-diffusion's schedule; the demo's grid."""
    config = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
    }
    eight = formula_of("EulerDiscreteScheduler", config | {"timestep_spacing": "trailing"}, 8, None)
    assert eight is not None
    published = [14.6146, 7.2974, 4.0817, 2.4925, 1.6129, 1.0690, 0.6932, 0.3977]
    assert eight.sigmas == pytest.approx(published, abs=5e-5)
    native = config | {"rescale_betas_zero_snr": True, "zero_snr_sigma": 20000.0}
    v3 = formula_of("NativeEulerScheduler", native, 28, None)
    assert v3 is not None
    assert v3.sigmas[:6] == pytest.approx([20000, 56.178, 25.900, 15.960, 11.094, 8.247], rel=1e-4)
    demo = formula_of("TurboGridScheduler", config, 2, None)
    assert demo is not None
    assert demo.timesteps.tolist() == [999, 899]
    fixed = formula_of("LCMScheduler", config, 1, (399,))
    assert fixed is not None
    assert fixed.sigmas[0] == pytest.approx(((1 - alphas_bar()[399]) / alphas_bar()[399]) ** 0.5)
    assert formula_of("EulerDiscreteScheduler", config | {"use_karras_sigmas": True}, 8, None) is None


def test_an_ablation_that_does_not_act_is_found(subject, monkeypatch):
    from contextlib import nullcontext

    from unbox.edits.apply import EditHook

    monkeypatch.setattr(EditHook, "attach", lambda self, model, rows=None: nullcontext())
    if hasattr(EditHook, "together"):
        monkeypatch.setattr(EditHook, "together", staticmethod(lambda hooks: EditHook(hooks[0][0].edits)))
    finding = ablations(subject)
    assert finding.verdict == "fail"
    assert "without mid.0" in finding.reason


def test_what_saes_explain_is_evaluated_on_the_first_step(subject):
    rows = RecordedRows(torch.randn(3, 1, 1, 4, 4, 128, generator=torch.Generator().manual_seed(0)), "mid.0")
    figures = evaluate(subject.saes["mid.0"], rows)
    assert figures.fvu_interval is not None
    assert figures.groups[0].step == 0
    finding = explained(subject)
    (row,) = finding.figures.values()
    assert row["rows"] == 2 * 64  # two images, 8 x 8 places
    assert finding.verdict == "pass"
    unknown = explained(replace(subject, saes={"mid.0": replace(subject.saes["mid.0"], meta={})}))
    assert unknown.verdict == "not possible here"
    assert "nothing is known of what mid.0 should explain" in unknown.reason
    assert unknown.figures["mid.0"]["explained"] == row["explained"]
    less = replace(subject.saes["mid.0"], meta={"figures": {"fvu": 0.01}})
    finding = explained(replace(subject, saes={"mid.0": less}))
    assert finding.verdict == "fail"
    assert "explained less than is known of them" in finding.reason


def test_the_papers_figures_are_of_its_saes_alone(subject, tmp_path):
    """Theirs by layout, k, n, block and base; another size of theirs is compared with nothing."""
    from unbox.experiments.verify.sae_checks import _expected, read_saes

    published = random_sae("up.0.1", width=128, latents=5120, k=160)
    for sae in (published, random_sae("mid.0", width=128, latents=640, k=10)):
        folder = tmp_path / folder_name(sae) / "final"
        folder.parent.mkdir()
        export_sae(sae, folder, "sdxl-unbox")
    read = read_saes(tmp_path)
    said = {sae.block: _expected(subject, sae) for sae in read.values()}
    assert said == {"up.0.1": (PAPER["up.0.1"], "paper"), "mid.0": (None, "")}
    other = load(tiny_pipeline(tmp_path / "other"), device="cpu")
    assert _expected(replace(subject, model=other), next(iter(read.values())))[0] is None


def test_without_saes_it_is_not_possible_and_says_what_to_give(subject, home):
    finding = explained(replace(subject, saes={}))
    assert finding.verdict == "not possible here"
    assert "surokpro2/sdxl-saes" in finding.reason
    assert "--saes" in finding.reason
    other = load(home, device="cpu")
    assert "give SAEs of this model" in explained(Subject(other, {}, OPTIONS)).reason


def test_the_exit_code_says_the_worst():
    def outcomes(*verdicts):
        return tuple(CheckOutcome("x", "?", CheckFinding(verdict, ""), 0.0) for verdict in verdicts)

    assert exit_code(outcomes("pass", "pass")) == 0
    assert exit_code(outcomes("pass", "not possible here")) == 3
    assert exit_code(outcomes("not possible here", "fail", "pass")) == 1


def test_weights_that_are_nowhere_are_a_page_too(tmp_path):
    found = absent(SYSTEMS["sdxl-turbo"], "no weights: offline.", torch.device("cpu"))
    assert found.code == 3
    text = unescape(found.write(tmp_path / "page.html").read_text(encoding="utf-8"))
    for said in ("no weights: offline.", "hf auth login", "https://huggingface.co/stabilityai/sdxl-turbo"):
        assert said in text
    assert all(
        check["verdict"] == "not possible here" for check in evidence(tmp_path / "page.html")["checks"]
    )


def test_what_a_device_cannot_do_is_said_and_not_raised(subject, monkeypatch):
    def fails(error):
        def check(subject):
            raise error

        return run_verify.Check("x", "?", check)

    errors = [
        torch.OutOfMemoryError("CUDA out of memory"),
        NotImplementedError("aten::x on mps"),
        RuntimeError("device-side assert"),
        UnboxError("no such block"),
    ]
    monkeypatch.setattr(run_verify, "CHECKS", [fails(error) for error in errors])
    verdicts = [outcome.finding.verdict for outcome in verify(subject, lambda line: None).outcomes]
    assert verdicts == ["not possible here", "not possible here", "fail", "fail"]
    monkeypatch.setattr(run_verify, "CHECKS", [fails(TypeError("ours"))])
    with pytest.raises(TypeError):
        verify(subject, lambda line: None)


def test_a_refiner_is_refused_before_anything_runs(tmp_path):
    model = load(
        tiny_refiner(tmp_path / "refiner"), device="cpu", system=replace(SYSTEMS["sdxl-refiner"], size=64)
    )
    with pytest.raises(UnboxError, match="sdxl-refiner refines pictures, and verify draws from prompts"):
        Subject(model, {}, OPTIONS)


def test_difference_is_nothing_for_equal_bits():
    x = torch.tensor(np.arange(4.0))
    assert difference(x, x.clone()) == 0
    assert difference(x, x + 1) == pytest.approx(1 / float(x.std()))
