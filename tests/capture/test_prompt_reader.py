"""Prompts from every kind of source."""

import json
import os
import tracemalloc
from collections.abc import Sized
from itertools import islice, pairwise
from types import SimpleNamespace

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from activation_store import Writer
from activation_store.writer import OTHERS_COMPARED
from tests.activation_store.fakes import schema
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


BOM = "\ufeff".encode()
JOINED = "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"

#: Name of a file, its bytes -> the prompts that are in it.
READ = [
    ("p.txt", BOM + b"a dog\r\na cat\r\n", ["a dog", "a cat"]),
    ("p.csv", BOM + b"prompt,n\r\na dog,1\r\n", ["a dog"]),
    ("p.jsonl", BOM + b'{"prompt": "a dog"}\n\n  \n{"prompt": "a cat"}', ["a dog", "a cat"]),
    ("p.txt", b"a dog\ra cat\r", ["a dog", "a cat"]),
    ("p.csv", b"prompt,n\ra dog,1\ra cat,2\r", ["a dog", "a cat"]),
    ("P.TXT", b"a dog", ["a dog"]),
    ("p.txt", "a dog\u2028on a boat\n".encode(), ["a dog\u2028on a boat"]),
    ("p.txt", JOINED.encode(), [JOINED]),
    ("p.txt", b"\t a dog, asleep \t\n \n", ["a dog, asleep"]),
    ("p.csv", b'prompt\n a dog \n\n"  a cat"\n', [" a dog ", "  a cat"]),
    ("p.csv", b'prompt,n\n"a dog\nand a cat",1\n', ["a dog\nand a cat"]),
    ("p.csv", b'prompt,n\na 5" dog,1\n', ['a 5" dog']),
    ("p.csv", b"text,Prompt\na cat,a dog\n", ["a dog"]),
    (
        "p.jsonl",
        b'{"n": 1, "caption": "a dog"}\n{"text": "a cat", "deep": {"x": [1, null]}}',
        ["a dog", "a cat"],
    ),
]

#: Name of a file, its bytes -> what is said of it, as a regular expression.
REFUSED = [
    ("p.txt", "a dog\n".encode("utf-16"), "p.txt is in UTF-16: give it as plain text in UTF-8"),
    ("p.csv", "prompt\na".encode("utf-16"), "p.csv is in UTF-16"),
    ("p.jsonl", "{}".encode("utf-16"), "p.jsonl is in UTF-16"),
    ("p.txt", "a dog\n".encode("utf-16-le"), r"line 1 .* control character U\+0000 at place 1"),
    ("p.txt", b"a dog\nK\xe4se", r"line 2 of .*p.txt is not in UTF-8 \(byte 0xe4\): save it as UTF-8"),
    ("p.csv", b"prompt\ra dog\rK\xe4se", "line 3 of .*p.csv is not in UTF-8"),
    ("p.jsonl", b'{"prompt": "K\xe4se"}', "line 1 of .*p.jsonl is not in UTF-8"),
    ("p.txt", b"\x1f\x8b\x08\x00\xff", r"p.txt is compressed \(gzip\)"),
    ("p.txt", b"x" * 20_001, "line 1 of .*p.txt holds no prompt: it is over 20,000 characters"),
    ("p.txt", b"a\x1b[31m dog", r"line 1 of .*p.txt: .* control character U\+001B at place 1"),
    ("p.txt", b"a dog\n" + BOM + b"a cat", r"line 2 .* control character U\+FEFF at place 0"),
    ("p.txt", b"", "there are no prompts in .*p.txt"),
    ("p.txt", b" \n\n", "there are no prompts in .*p.txt"),
    ("p.txt.gz", b"", "prompts come from .* not from '.*p.txt.gz'"),
    ("p.csv", b"prompt,n\na dog,1\na dog, asleep,2\n", r"row 2 \(line 3\) .* has 3 cells and the header 2"),
    ("p.csv", b"prompt,n\na dog\n", r"row 1 \(line 2\) .* has 1 cells and the header 2: cells are missing"),
    ("p.csv", b'prompt\n"a dog\na cat\na bird\n', r"row 1 \(line 2\) .* is not CSV: a quote is not closed"),
    ("p.csv", b'prompt,n\n"a dog,1\na cat,2\n"a bird",3\n', r"row 1 \(line 2\) .* is not CSV: "),
    ("p.csv", b'prompt,n\n"a dog,1\na cat",2\na bird,3\n', r"row 1 .* 2 lines, and 'a dog,1' in it looks"),
    ("p.csv", b'n,prompt\n1,"a dog\n2,a cat"\n', "'2,a cat' in it looks like a row of its own: is a quote"),
    ("p.csv", b"prompt,note\na dog," + b"x" * 131_073, r"row 1 \(line 2\) .* field larger than field limit"),
    ("p.csv", b'prompt,n\n"a dog" ,1\n', r"row 1 .* is not CSV: .* a quote inside quotes is doubled"),
    ("p.csv", b"prompt,n\na dog,1\n  ,2\n", r"row 2 \(line 3\) .* holds no prompt: it is empty"),
    ("p.csv", b'prompt\na dog\n""\n', r"row 2 \(line 3\) .* holds no prompt: it is empty"),
    ("p.csv", b"prompt,n,n\na dog,1,2\n", "has two columns called 'n'"),
    ("p.csv", b"prompt,,\na dog,,\n", "has 2 columns without a name"),
    ("p.csv", b"prompt,Prompt\na dog,a cat\n", "has columns prompt and Prompt: choose one with --column"),
    ("p.csv", b"prompt;seed\na dog;1\n", "has one column, 'prompt;seed': it is separated by semicolons"),
    ("p.csv", b"prompt\tseed\na dog\t1\n", "it is separated by tabs; save it with commas"),
    ("p.csv", b"prompt\na\0dog\n", r"control character U\+0000"),
    ("p.csv", b"a,b\n1,2\n", "no column prompt, text, caption; it has a, b. Choose one with --column"),
    ("p.csv", b"prompt,n\n", "there are no prompts in"),
    ("p.jsonl", b'{"prompt": "a"}\n{"prompt": 7}', "line 2 .* holds no prompt: it is int '7', not text"),
    ("p.jsonl", b'{"prompt": null}', "line 1 .* holds no prompt: it is empty"),
    ("p.jsonl", b'{"prompt": ""}', "line 1 .* holds no prompt: it is empty"),
    ("p.jsonl", b'{"prompt": ["a"]}', "line 1 .* holds no prompt: it is list"),
    ("p.jsonl", b'{"title": "x"}', "no column prompt, text, caption; it has title"),
    ("p.jsonl", b"[1]", "not an object"),
    ("p.jsonl", b'{"prompt": "a", "n": NaN}', "line 1 of .* is not valid JSON: NaN"),
    ("p.jsonl", b'{"prompt": "a", "prompt": "b"}', "line 1 .* not valid JSON: the key 'prompt' is"),
    ("p.jsonl", b'{"prompt": "a"', r"line 1 of .* is not valid JSON: .*: column 15"),
    ("p.jsonl", b'{"prompt": "\\ud800"}', r"control character U\+D800"),
    ("p.jsonl", b'{"prompt": "a", "n": ' + b"[" * 100_000, "nested too deeply"),
    ("p.parquet", b"PAR1 and nothing else", "p.parquet cannot be read as Parquet: "),
    ("p.zip", b"", "prompts come from .* not from"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "prompts"), READ)
def test_files_of_every_origin_are_read_alike(tmp_path, name, content, prompts):
    (tmp_path / name).write_bytes(content)
    assert [prompt.text for prompt in read_prompts(str(tmp_path / name))] == prompts


@pytest.mark.parametrize(("name", "content", "message"), REFUSED)
def test_what_holds_no_prompts_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnboxError, match=message) as caught:
        list(read_prompts(str(tmp_path / name)))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_parquet_columns_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "p.parquet"
    for column, message in (
        ([b"a"], "is of type binary, not text"),
        ([7], "row 1 .* it is int '7', not text"),
    ):
        parquet.write_table(pyarrow.table({"prompt": column, "n": [1]}), path)
        with pytest.raises(UnboxError, match=message):
            list(read_prompts(str(path)))
    parquet.write_table(pyarrow.table([["a"], ["b"]], names=["prompt", "prompt"]), path)
    with pytest.raises(UnboxError, match="two columns called 'prompt'"):
        list(read_prompts(str(path)))
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + b"\0" * 40 + whole[80:])
    with pytest.raises(UnboxError):
        list(read_prompts(str(path)))


def test_what_can_be_read_only_once_and_folders_are_named(tmp_path):
    os.mkfifo(tmp_path / "p.txt")
    with pytest.raises(UnboxError, match=r"p\.txt is a pipe or a device, which can be read only once"):
        read_prompts(str(tmp_path / "p.txt"))
    for folder in (tmp_path, tmp_path / "q.csv"):
        folder.mkdir(exist_ok=True)
        with pytest.raises(UnboxError, match="is a folder, not a file"):
            read_prompts(str(folder))


def test_a_split_of_a_file_is_refused(tmp_path):
    (tmp_path / "p.txt").write_text("a dog")
    with pytest.raises(UnboxError, match=r"p\.txt is a file and has no split train"):
        read_prompts(str(tmp_path / "p.txt"), split="train")


@given(st.sampled_from([".txt", ".csv", ".jsonl", ".parquet"]), st.binary(max_size=200), st.booleans())
def test_any_bytes_are_prompts_or_a_mistake_in_a_line(tmp_path_factory, ending, content, headed):
    path = tmp_path_factory.mktemp("any") / f"p{ending}"
    path.write_bytes({".csv": b"prompt,n\n", ".parquet": b"PAR1"}.get(ending, b"") * headed + content)
    error, prompts = "", []
    try:
        prompts = list(read_prompts(str(path)))
    except UnboxError as raised:
        error = str(raised)
    assert bool(prompts) != bool(error)
    assert all(prompt.text.strip() for prompt in prompts)
    assert not error or (str(path) in error and "\n" not in error)


@pytest.mark.parametrize("ending", [".txt", ".csv", ".jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path, ending):
    """Bytes in use while a file of 10,000 lines is read, far under what a list of its prompts would take."""
    path = tmp_path / f"p{ending}"
    row = {".txt": "a dog {}\n", ".csv": "a dog {},{}\n", ".jsonl": '{{"prompt": "a dog {}"}}\n'}[ending]
    path.write_text("prompt,n\n" * (ending == ".csv") + "".join(row.format(n, n) for n in range(10_000)))
    prompts = read_prompts(str(path))
    tracemalloc.start()
    count = len(prompts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (count, peak < 100_000) == (10_000, True)


def test_a_file_has_a_length_and_every_row_can_be_looked_at(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"dog {n}"}) for n in range(5)))
    prompts = read_prompts(str(path))
    assert len(prompts) == len(list(prompts)) == len(list(prompts)) == 5
    path.write_text(path.read_text() + '\n{"prompt": 7}')
    prompts = read_prompts(str(path))
    prompts.check(0, 2)  # another process's part
    for place in ((), (1, 2)):
        with pytest.raises(UnboxError, match=r"line 6 .* holds no prompt"):
            prompts.check(*place)


def written(path, count):
    """A file of so many prompts, some rows of which are of other lengths, blank or of several lines."""
    texts = [f"dog {n} " + "é" * (n % 5) for n in range(count)]
    if path.suffix == ".parquet":
        table = pyarrow.table({"prompt": texts, "n": list(range(count))})
        parquet.write_table(table, path, row_group_size=700)
        return
    if path.suffix == ".txt":
        lines = [f"{text}\r\n" + "\n" * (n % 3) for n, text in enumerate(texts)]
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"prompt": text, "n": n}) + "\n" * (1 + n % 2) for n, text in enumerate(texts)]
    else:
        cells = [f'"{text}\nand more"' if n % 4 == 0 else text for n, text in enumerate(texts)]
        lines = ["prompt,n\r\n", *(f"{cell},{n}\r\n" for n, cell in enumerate(cells))]
    path.write_bytes(b"\xef\xbb\xbf" + "".join(lines).encode())


@pytest.mark.parametrize("ending", [".txt", ".csv", ".jsonl", ".parquet"])
def test_parts_are_those_of_the_whole(tmp_path, ending):
    written(path := tmp_path / f"p{ending}", 3000)
    prompts = read_prompts(str(path))
    whole = list(prompts)
    assert len(prompts) == len(whole) == 3000
    for parts in (
        [range(3)],
        [range(1023, 1026)],
        [range(2048, 2049), range(2049, 2051), range(2999, 3000)],
        [range(5, 9), range(1500, 1500), range(2500, 4000)],
        [range(first, min(first + 40, 3000)) for first in range(40, 3000, 120)],
    ):
        expected = [prompt for part in parts for prompt in whole[part.start : part.stop]]
        assert list(prompts.parts(parts)) == expected


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".txt"])
def test_a_mistake_in_a_part_is_where_it_is_in_the_whole(tmp_path, ending):
    bad = {".csv": "a cat,asleep,3\n", ".jsonl": '{"prompt": 7}\n', ".txt": "a\x07cat\n"}[ending]
    written(path := tmp_path / f"p{ending}", 2500)
    with open(path, "a", newline="") as file:
        file.write(bad)
    told = []
    for parts in ([range(2501)], [range(2500, 2501)]):
        with pytest.raises(UnboxError, match=r"(row|line) \d+") as raised:
            list(read_prompts(str(path)).parts(parts))
        told.append(str(raised.value))
    assert told[0] == told[1]


def test_a_rank_takes_no_other_ranks_prompts_apart(tmp_path, monkeypatch):
    """Characters of JSON that each of eight processes parses: an eighth to check, an eighth to make, and some
    to compare; the same of 1.5 million prompts, where 64 shards of others are compared."""
    from unbox.capture import prompt_rows

    def asked_by(rank, count, there=()):
        one = Writer(tmp_path / "store", schema(shard_samples=50), rank=rank, world=8)
        one._publisher = SimpleNamespace(entries=dict.fromkeys(there))
        return one.asks(count)

    written(path := tmp_path / "p.jsonl", 8000)
    parsed, parse = [0], prompt_rows.parse_json_text

    def counting(text, where):
        parsed[0] += len(text)
        return parse(text, where)

    monkeypatch.setattr(prompt_rows, "parse_json_text", counting)
    size, prompts = path.stat().st_size, read_prompts(str(path))
    for rank in range(8):
        parsed[0] = 0
        prompts.check(rank, 8)
        asked = asked_by(rank, 8000)
        assert sum(1 for _ in prompts.parts(asked)) == sum(map(len, asked)) == 1000
        assert parsed[0] < 0.27 * size
    asked = asked_by(3, 1_500_000, range(0, 1_500_000, 50))
    assert sum(map(len, asked)) <= 1_500_000 / 8 + (OTHERS_COMPARED + 1) * 50
    assert all(a.stop <= b.start for a, b in pairwise(asked))


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


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """`datasets` reads a folder as it reads the Hub."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


PARTS = (
    [range(3)],
    [range(95, 105)],
    [range(99, 100), range(100, 101), range(2999, 3000)],
    [range(5, 9), range(150, 150), range(2500, 4000)],
    [range(first, min(first + 40, 3000)) for first in range(40, 3000, 120)],
)


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "txt"])
def test_parts_of_a_hub_data_set_are_those_of_the_whole(hub_folder, ending):
    """Over several files, and what lies behind the last part is not reached."""
    rows = [{"text": f"dog {n} " + "é" * (n % 5)} for n in range(3000)]
    for number, (start, stop) in enumerate(pairwise((0, 100, 101, 1500, 3000))):
        path, some = hub_folder / f"train-{number}.{ending}", rows[start:stop]
        if ending == "parquet":
            parquet.write_table(pyarrow.Table.from_pylist(some), path, row_group_size=64)
        else:
            lines = [json.dumps(row) if ending == "jsonl" else row["text"] for row in some]
            path.write_text("\n".join(lines) + "\n")
    prompts = read_prompts(f"hub:{hub_folder}")
    whole = list(prompts)
    assert [prompt.text for prompt in whole] == [row["text"] for row in rows]
    assert isinstance(prompts, Sized) == (ending == "parquet")
    assert ending != "parquet" or len(prompts) == 3000
    for parts in PARTS:
        expected = [prompt for part in parts for prompt in whole[part.start : part.stop]]
        assert list(prompts.parts(parts)) == expected
    (hub_folder / f"train-3.{ending}").write_bytes(b"\xff spoilt")  # footers, if any, were read
    assert [p.text for p in islice(prompts.parts([range(90, 102)]), 12)] == [r["text"] for r in rows[90:102]]


def test_of_hub_parquet_only_groups_of_rows_that_are_asked_for_are_fetched(hub_folder):
    """Every other group is spoilt: whoever reads it is told so by Parquet."""
    path, table = hub_folder / "train-0.parquet", pyarrow.table({"prompt": [f"dog {n}" for n in range(800)]})
    parquet.write_table(
        table, path, row_group_size=100, use_dictionary=False, compression="zstd", write_page_checksum=True
    )
    whole, groups = bytearray(path.read_bytes()), parquet.read_metadata(path)
    for number in range(1, 8, 2):
        column = groups.row_group(number).column(0)
        at = column.data_page_offset + column.total_compressed_size // 2
        whole[at : at + 20] = bytes(20)
    path.write_bytes(whole)
    prompts = read_prompts(f"hub:{hub_folder}")
    asked = [range(0, 100), range(200, 210), range(640, 700)]
    found = [prompt.text for prompt in prompts.parts(asked)]
    assert found == [f"dog {n}" for part in asked for n in part]
    with pytest.raises(UnboxError, match=r"the data set .*set \(split train\) cannot be read"):
        list(prompts.parts([range(90, 110)]))


@pytest.mark.parametrize("hub", [False, True])
def test_columns_that_nobody_wants_are_not_read(tmp_path, monkeypatch, hub):
    """The pictures of a Parquet file are spoilt: whoever reads them is told so by Parquet."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    pictures = [os.urandom(5000) for _ in range(40)]
    numbers = list(range(40))
    table = pyarrow.table({"prompt": [f"a dog {n}" for n in numbers], "n": numbers, "odd": [
        f"{n}" * 3 for n in numbers], "image": pictures})  # fmt: skip
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "train-0.parquet"
    parquet.write_table(table, path, compression="zstd", use_dictionary=False, write_page_checksum=True)
    whole = bytearray(path.read_bytes())
    for name in ("image", "odd"):
        column = table.schema.get_field_index(name)
        place = parquet.read_metadata(path).row_group(0).column(column)
        at = place.data_page_offset + place.total_compressed_size // 2
        whole[at : at + 20] = bytes(20)
    path.write_bytes(whole)
    with pytest.raises(OSError, match=r".+"):
        parquet.read_table(path, columns=["odd"])
    source = f"hub:{tmp_path / 'set'}" if hub else str(path)
    found = list(read_prompts(source, facts=["n"]))
    assert found == [Prompt(f"a dog {n}", {"n": n}) for n in numbers]
    assert [prompt.meta for prompt in read_prompts(source, facts=[])] == [{}] * 40
    with pytest.raises(UnboxError, match=r"row 1 of .* has no column none to be a fact; it has prompt"):
        list(read_prompts(source, facts=["none"]))


def test_facts_are_chosen_in_every_format(tmp_path):
    (tmp_path / "p.csv").write_text("prompt,n,m\na dog,1,2\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a dog", "n": "1", "m": 2}')
    for name in ("p.csv", "p.jsonl"):
        assert list(read_prompts(str(tmp_path / name), facts=["n"])) == [Prompt("a dog", {"n": "1"})]
    (tmp_path / "p.txt").write_text("a dog")
    for without in ("shapes", str(tmp_path / "p.txt")):
        with pytest.raises(UnboxError, match="has no columns, so there is no column n to choose"):
            read_prompts(without, facts=["n"])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnboxError, match="no file of prompts"):
        read_prompts(str(tmp_path / "none.txt"))
