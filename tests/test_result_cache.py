"""Results are computed once, found again, and computed again when anything they depend on changes."""

import hashlib
import json

import pytest

from unbox.errors import UnboxError
from unbox.result_cache import ResultCache, Stages, cached, key_of


def chain(folder, calls, first=1, second=2, fail=False):
    """Two stages, the second after the first; `calls` collects the names of those that really ran."""

    def build(name, value):
        def run(to):
            calls.append(name)
            (to / "part").write_text(str(value))
            if fail and name == "b":
                raise KeyboardInterrupt
            return {"value": value}

        return run

    stages = Stages(folder, say=lambda text: None)
    a = stages.run("a", "first", {"n": first}, build("a", first))
    b = stages.run("b", "second", {"n": second}, build("b", second), (a,))
    return a, b


def test_a_stage_runs_once(tmp_path):
    calls: list[str] = []
    first = chain(tmp_path, calls)
    again = chain(tmp_path, calls)
    assert calls == ["a", "b"]
    assert first == again
    assert again[1].result == {"value": 2}


@pytest.mark.parametrize(("change", "ran"), [({"second": 3}, ["b"]), ({"first": 3}, ["a", "b"])])
def test_a_change_runs_what_depends_on_it(tmp_path, change, ran):
    chain(tmp_path, [])
    calls: list[str] = []
    chain(tmp_path, calls, **change)
    assert calls == ran
    calls.clear()
    chain(tmp_path, calls)  # what was done with the first settings is still there
    assert calls == []


def test_a_stopped_stage_goes_on_in_its_folder(tmp_path):
    calls: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        chain(tmp_path, calls, fail=True)
    left = [path.name for path in tmp_path.glob("b-*/*")]
    assert left == ["part"]
    calls.clear()
    _, b = chain(tmp_path, calls)
    assert calls == ["b"]
    assert sorted(path.name for path in b.folder.iterdir()) == ["part", "result.json"]
    assert len(list(tmp_path.iterdir())) == 2


def test_results_are_found_by_what_decides_them(tmp_path):
    calls = []

    def compute(x):
        calls.append(x)
        return [{"x": x + 1}]

    cache = ResultCache(tmp_path, {"model": "a"})
    assert [cache.get(["k"], compute, 1), cache.get(["k"], compute, 1)] == [[{"x": 2}]] * 2
    assert ResultCache(tmp_path, {"model": "b"}).get(["k"], compute, 5) == [{"x": 6}]
    assert calls == [1, 5]


def test_keys_and_files_are_those_of_the_versions_before(tmp_path):
    """Folders of results outlive a release: names are of SHA-256, values where they were."""
    text = b'[{"model":"a"},["k",1]]'
    assert key_of([{"model": "a"}, ["k", 1]]) == hashlib.sha256(text).hexdigest()[:24]
    assert key_of([{"model": "a"}, ["k", 1]], 16) == hashlib.sha256(text).hexdigest()[:16]
    ResultCache(tmp_path, {"model": "a"}).get(["k", 1], lambda: {"x": 2})
    (path,) = tmp_path.iterdir()
    assert path.name == f"{hashlib.sha256(text).hexdigest()[:24]}.json"
    assert json.loads(path.read_text()) == {"key": ["k", 1], "result": {"x": 2}}


def test_what_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(ZeroDivisionError):
        cached(tmp_path / "new" / "x.json", lambda: 1 / 0)
    assert list((tmp_path / "new").iterdir()) == []


DAMAGED = [
    ("[]", "is not a JSON object"),
    ("{", "is not valid JSON"),
    ("{}", "key = None: is damaged: remove the file, and it is made again"),
    ('{"key": ["b"], "result": {}}', r"key = \['b'\]: is damaged"),
    ('{"key": ["a"], "result": 3}', "result = 3: is damaged"),
    ('{"key": ["a"], "result": [3]}', r"result = \[3\]: is damaged"),
]


@pytest.mark.parametrize(("text", "message"), DAMAGED)
def test_a_damaged_result_is_named_and_not_used(tmp_path, text, message):
    results = ResultCache(tmp_path, {"model": "m"})
    assert results.get(["a"], dict, x=1) == {"x": 1}
    (path,) = tmp_path.iterdir()
    path.write_text(text)
    with pytest.raises(UnboxError, match=message) as caught:
        results.get(["a"], dict, x=1)
    assert path.name in str(caught.value)


def test_a_damaged_stage_is_named(tmp_path):
    a, _ = chain(tmp_path, [])
    (a.folder / "result.json").write_text('{"result": 3, "seconds": "x"}')
    with pytest.raises(UnboxError, match="seconds = 'x': is damaged"):
        chain(tmp_path, [])
