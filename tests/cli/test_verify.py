"""`unbox verify` as it is typed."""

import json

import pytest

from unbox.cli.main import main


def verdicts(page):
    text = page.read_text(encoding="utf-8").partition('id="evidence">')[2].partition("</script>")[0]
    return {check["name"]: check["verdict"] for check in json.loads(text)["checks"]}


def test_weights_that_are_not_here_are_told_how_to_be_had(tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["verify", "sdxl-turbo", "--offline", "--device", "cpu", "--out", str(page)]) == 3
    assert set(verdicts(page).values()) == {"not possible here"}
    assert "hf auth login" in page.read_text(encoding="utf-8")
    said = capsys.readouterr().out
    assert "no weights: looked for stabilityai/sdxl-turbo in the cache" in said
    assert str(page) in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-model"], "there is no system 'no-such-model'"),
        (["novelai-v3"], "novelai-v3 has no public weights"),
        (["shapes-turbo", "--model", "shapes-base"], "--model names the model a second time"),
        (["shapes-turbo", "--model-mismatch", "allow"], "--model-mismatch is for --saes"),
        (["shapes-turbo", "--repeats", "0"], "--repeats = 0: should be at least 1"),
        (["shapes-turbo", "--out", "."], "is a folder; give the name of a file"),
    ],
)
def test_mistakes_are_refused_and_no_page_is_written(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["verify", *words, "--offline"]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_bundled_model_passes(tmp_path):
    page = tmp_path / "page.html"
    line = ["verify", "shapes-turbo", "--repeats", "1", "--device", "cpu", "--out", str(page)]
    assert main(line) == 0
    assert set(verdicts(page).values()) == {"pass"}
