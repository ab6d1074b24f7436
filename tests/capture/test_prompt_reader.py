"""Prompts from every kind of source."""

import json
from itertools import islice

import pyarrow
import pytest
from pyarrow import parquet

from activation_store import StoreError
from unbox.capture import read_prompts
from unbox.errors import UnboxError
from unbox.prompt import Prompt

TRUTH = [Prompt("a dog", {"n": 1}), Prompt('two "cats", asleep', {"n": 2}), Prompt("Käse", {"n": 3})]


def test_text_has_one_prompt_a_line(tmp_path):
    (tmp_path / "p.txt").write_text("a dog\n\n  a cat \nKäse", encoding="utf-8")
    assert [p.text for p in read_prompts(str(tmp_path / "p.txt"))] == ["a dog", "a cat", "Käse"]


@pytest.mark.parametrize("column", ["prompt", "text", "caption"])
def test_tables_have_a_column_of_prompts_and_facts(tmp_path, column):
    rows = [{column: prompt.text, **prompt.meta} for prompt in TRUTH]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = [f"{column},n", "a dog,1", '"two ""cats"", asleep",2', "Käse,3"]
    (tmp_path / "p.csv").write_text("\n".join(lines), encoding="utf-8")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert list(read_prompts(str(tmp_path / "p.jsonl"))) == TRUTH
    assert list(read_prompts(str(tmp_path / "p.parquet"))) == TRUTH
    texts = [Prompt(prompt.text, {"n": str(prompt.meta["n"])}) for prompt in TRUTH]  # CSV knows only text
    assert list(read_prompts(str(tmp_path / "p.csv"))) == texts


def test_facts_that_are_no_json_are_left_out(tmp_path):
    table = pyarrow.Table.from_pylist([{"text": "a", "image": b"\x00", "size": [1, 2], "bad": float("nan")}])
    parquet.write_table(table, tmp_path / "p.parquet")
    assert list(read_prompts(str(tmp_path / "p.parquet"))) == [Prompt("a", {"size": [1, 2]})]


def test_shapes_begin_as_its_own_list_and_have_no_end():
    from unbox.shapes import prompts

    assert list(islice(read_prompts("shapes", seed=5), 1500)) == prompts(1500, seed=5)
    held = next(read_prompts("shapes", seed=5, split="heldout"))
    assert held == prompts(1, seed=5, split="heldout")[0]
    with pytest.raises(UnboxError, match="train, heldout; not 'test'"):
        next(read_prompts("shapes", split="test"))


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("p.jsonl", '{"prompt": 7}', UnboxError, "row 0 .* holds no prompt"),
        ("p.jsonl", '{"title": "x"}', UnboxError, "no column prompt, text, caption; it has title"),
        ("p.jsonl", "[1]", UnboxError, "not an object"),
        ("p.jsonl", '{"prompt": NaN}', StoreError, "line 1 of .* is not valid JSON"),
        ("p.csv", "a,b\n1,2\n", UnboxError, "no column"),
        ("p.txt", "x" * 20_001, UnboxError, "over 20,000 characters"),
        ("p.zip", "", UnboxError, "not from"),
    ],
)
def test_what_holds_no_prompts_is_named(tmp_path, name, content, error, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message):
        list(read_prompts(str(tmp_path / name)))


def test_a_file_has_a_length_and_every_row_is_looked_at_to_find_it(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"dog {n}"}) for n in range(5)))
    prompts = read_prompts(str(path))
    assert len(prompts) == len(list(prompts)) == len(list(prompts)) == 5
    path.write_text(path.read_text() + '\n{"prompt": 7}')
    prompts = read_prompts(str(path))
    with pytest.raises(UnboxError, match=r"row 5 .* holds no prompt"):
        len(prompts)


def test_a_column_may_be_named_and_its_case_does_not_matter(tmp_path):
    (tmp_path / "p.csv").write_text("Prompt,Other,n\na dog,a cat,1\n")
    source = str(tmp_path / "p.csv")
    assert list(read_prompts(source)) == [Prompt("a dog", {"Other": "a cat", "n": "1"})]
    assert next(iter(read_prompts(source, column="Other"))).text == "a cat"
    with pytest.raises(
        UnboxError, match=r"no column other; it has Prompt, Other, n\. Choose one with --column"
    ):
        list(read_prompts(source, column="other"))
    (tmp_path / "p.txt").write_text("a dog")
    for without in ("shapes", str(tmp_path / "p.txt")):
        with pytest.raises(UnboxError, match="has no columns"):
            read_prompts(without, column="Other")


def test_a_hub_data_set_is_streamed_and_its_pictures_are_left_alone(tmp_path, monkeypatch):
    """`datasets` reads a folder as it reads the Hub; only the download is not tried here."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    picture = {"bytes": b"not a picture", "path": "a.png"}
    rows = [{"TEXT": prompt.text, **prompt.meta, "image": picture} for prompt in TRUTH]
    kinds = {"TEXT": datasets.Value("string"), "n": datasets.Value("int64"), "image": datasets.Image()}
    (tmp_path / "set").mkdir()
    table = datasets.Dataset.from_list(rows, features=datasets.Features(kinds))
    table.to_parquet(tmp_path / "set" / "train-00000.parquet")
    source = f"hub:{tmp_path / 'set'}"
    assert list(read_prompts(source)) == TRUTH
    assert list(islice(read_prompts(source), 1)) == TRUTH[:1]
    for wrong in ({"source": f"hub:{tmp_path / 'none'}"}, {"source": source, "split": "test"}):
        with pytest.raises(UnboxError, match="cannot be read"):
            read_prompts(**wrong)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnboxError, match="no file of prompts"):
        read_prompts(str(tmp_path / "none.txt"))
