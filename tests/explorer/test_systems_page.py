"""The page of a comparison of systems: what `unbox diff` left in a folder, with its pictures."""

import json
import re
import shutil

import pytest

from unbox.errors import UnboxError
from unbox.explorer import interface
from unbox.explorer.figure_files import read_comparison
from unbox.explorer.pages import systems_page
from unbox.explorer.served_pictures import PICTURES
from unbox.explorer.session import ExplorerSession


def test_the_page_has_the_figures_of_the_folder_and_its_pictures(session, comparison):
    page = systems_page.body(session, read_comparison(comparison))
    features = json.loads((comparison / "figures.json").read_text())["blocks"]["mid.0"]["features"]["less"]
    named = re.findall(r"<td>(mid\.0/\d+)</td>", page)
    assert named == [f"mid.0/{each['index']}" for each in features]
    assert "mid.0/2" in named  # the planted one
    assert f"{features[0]['t']:.2f}" in page
    assert "picture 0" in page
    shown = re.findall(r'src="/picture/([^"]+)"', page)
    pictures = {name: stored.thumbnail(0) for name, stored in read_comparison(comparison).stores.items()}
    assert {PICTURES.read(name) for name in shown} == set(pictures.values())
    assert "?view=feature" not in page  # its SAEs are others than the explorer's


def test_features_open_their_pages_where_the_explorer_has_their_saes(session, comparison):
    saes = comparison / "saes" / "joint"
    own = ExplorerSession(session.model("tiny"), session.saes, folder=saes)
    assert 'href="?view=feature&amp;f=mid.0/2"' in systems_page.body(own, read_comparison(comparison))


def test_the_tab_is_there_where_a_comparison_is(session, comparison):
    def tabs(comparison):
        app = interface.build(
            ExplorerSession(session.model("tiny"), session.saes, session.atlas, comparison=comparison)
        )
        return [each.label for each in app.blocks.values() if type(each).__name__ == "Tab"]

    assert systems_page.TITLE not in tabs(None)
    assert tabs(read_comparison(comparison / "figures.json"))[-1] == systems_page.TITLE


def test_figures_without_stores_are_shown_without_pictures(session, comparison, tmp_path):
    shutil.copy(comparison / "figures.json", tmp_path)
    page = systems_page.body(session, read_comparison(tmp_path))
    assert "mid.0/2" in page
    assert "<img" not in page


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("systems",), 3, r"figures\.json: systems is not an object of figures but int"),
        (("first",), "x", "has no first, images or held_out"),
        (("blocks", "mid.0", "explained", "given", "less"), {"fvu": 1}, "explained less has no low"),
        (("blocks", "mid.0", "changes", "less"), {}, "changes less has no gained"),
        (("blocks", "mid.0", "features", "less"), [{}], r"features less\[0\] has no index"),
    ],
)
def test_what_unbox_diff_does_not_write_is_named(comparison, tmp_path, place, value, message):
    figures = json.loads((comparison / "figures.json").read_text())
    at = figures
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    with pytest.raises(UnboxError, match=message):
        read_comparison(tmp_path)
