"""`unbox collect` and `unbox store ...` as they are typed."""

import pytest

from activation_store import Store
from unbox.cli.main import main

PROMPTS = "a dog\na cat\na boat\n"


@pytest.fixture(scope="module")
def typed(folder, tmp_path_factory):
    """A prompts file, and the words of a small collection that may be extended."""
    place = tmp_path_factory.mktemp("typed")
    (place / "p.txt").write_text(PROMPTS)
    words = f"collect --model {folder} --prompts {place / 'p.txt'} --steps 1 --guidance 0 --device cpu"
    return place, [*words.split(), "--blocks", "mid.0", "up.1.0", "--batch-size", "2"]


@pytest.fixture(scope="module")
def store(typed):
    place, words = typed
    assert main([*words, "--store", str(place / "s")]) == 0
    return Store.open(place / "s")


def test_a_dry_run_plans_and_writes_nothing(typed, capsys):
    place, words = typed
    assert main([*words, "--store", str(place / "none"), "--dry-run", "--gpus", "4"]) == 0
    said = capsys.readouterr().out
    assert "mid.0: (1, 1, 8, 8, 128)" in said
    assert "3 images: 960 vectors" in said
    assert "4 such devices" in said
    assert not (place / "none").exists()
    assert not list(place.glob(".unbox*"))


def test_collecting_again_or_by_another_rank_makes_only_what_is_missing(typed, store, capsys):
    _, words = typed
    assert store["up.1.0"].shape == (3, 1, 1, 16, 16, 64)
    assert main([*words, "--store", str(store.path), "--rank", "0", "--world", "2"]) == 0
    said = capsys.readouterr().out
    assert "3 images, 960 vectors of mid.0, up.1.0" in said
    assert "nothing to make: this process's images of the 3 prompts are there" in said
    assert Store.open(store.path).digest == store.digest


def test_info_verify_repair_subset_and_merge(typed, store, capsys):
    place, _ = typed
    part, both = place / "part", place / "both"
    assert main(["store", "info", str(store.path)]) == 0
    said = capsys.readouterr().out
    assert "3 images in 1 files" in said
    assert store.digest in said
    assert main(["store", "verify", str(store.path)]) == 0
    words = ["--blocks", "mid.0", "--samples", "1", "None", "--store-dtype", "int8", "--out", str(part)]
    assert main(["store", "subset", str(store.path), *words]) == 0
    assert (len(Store.open(part)), Store.open(part).blocks) == (2, ("mid.0",))
    assert main(["store", "merge", str(store.path), str(store.path), "--out", str(both)]) == 0
    assert len(Store.open(both)) == 6
    capsys.readouterr()
    shard = next((part / "shards").rglob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert main(["store", "verify", str(part)]) == 1
    assert "is damaged" in capsys.readouterr().out
    assert main(["store", "repair", str(part)]) == 0
    assert "moved to damaged/" in capsys.readouterr().out
    assert len(Store.open(part)) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("collect --prompts shapes --store x", "say how many with --limit"),
        ("collect --prompts none.txt --store x", "no file of prompts at none.txt"),
        ("collect --prompts x.zip --store x", "prompts come from shapes, hub:NAME"),
        ("store info nowhere", "no activation store at nowhere"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
