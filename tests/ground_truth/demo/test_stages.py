"""Stages run once, are found again, and run again when anything they depend on changes."""

import pytest

from unbox.ground_truth.demo.stages import Stages


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
