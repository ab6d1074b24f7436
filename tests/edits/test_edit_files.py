"""Edits in files, and SAEs found again for them."""

import pytest

from tests.edits.dictionaries import random_sae
from unbox.edit import Block, Direction, Feature
from unbox.edits import bind, load_edits, save_edits
from unbox.errors import UnboxError

EDITS = Feature("mid.0", 3).scale(2) + Direction("mid.0", [1, 2]).add(1) + Block("up.0.1").ablate()


def test_a_file_gives_back_what_was_saved(tmp_path):
    path = save_edits(EDITS, tmp_path / "edits.json")
    assert load_edits(path) == EDITS
    sae = random_sae()
    bound = load_edits(path, {"mid.0": sae})
    assert bound == EDITS
    assert bound[0].sae is sae
    assert bound[1].sae is bound[2].sae is None


def test_the_sae_is_found_by_block_or_by_name():
    one, two = random_sae(name="k4"), random_sae(name="k8")
    saes = {"a": one, "b": two}
    edit = Feature("mid.0", 3, source="k8").scale(2)
    assert bind(edit, saes)[0].sae is two
    assert bind(Feature("mid.0", 3, source="a").scale(2), saes)[0].sae is one
    with pytest.raises(UnboxError, match="2 SAEs and no source to say which"):
        bind(Feature("mid.0", 3).scale(2), saes)
    with pytest.raises(UnboxError, match="there are SAEs of a, b"):
        bind(Feature("up.0.1", 3).scale(2), saes)


@pytest.mark.parametrize("text", ["", "[1]", '{"version": 7, "edits": []}', '{"block": "mid.0"}', "[NaN]"])
def test_a_file_that_holds_no_edits_is_named(tmp_path, text):
    path = tmp_path / "edits.json"
    path.write_text(text)
    with pytest.raises(UnboxError, match=r"edits\.json"):
        load_edits(path)
    with pytest.raises(UnboxError, match=r"nowhere\.json"):
        load_edits(tmp_path / "nowhere.json")
