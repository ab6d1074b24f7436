"""Questions to an atlas, words, labels, meaning."""

import json
import shutil
from itertools import combinations

import numpy as np
import pytest
import torch

from tests.atlas.planted import caption
from tests.models.tiny import tiny_pipeline
from unbox.atlas import Atlas, Filter, set_label
from unbox.atlas.caption_labels import label_auroc, log_odds, terms_of
from unbox.atlas.database import IN_CAPTION, connect, match, vocabulary
from unbox.atlas.relations import neighbours
from unbox.atlas.text_embeddings import embed, feature_vectors, nearest, usual_likeness
from unbox.errors import UnboxError


@pytest.fixture
def own(atlas, tmp_path):
    """A copy that may be written to."""
    shutil.copytree(atlas.path, tmp_path / "atlas")
    return Atlas.open(tmp_path / "atlas")


def test_search_by_words_statistics_and_name(atlas):
    assert {f.name for f in atlas.search("red")} >= {"mid.0/0", "up.0.0/0"}
    assert {f.block for f in atlas.search("red", Filter(block="mid.0"))} == {"mid.0"}
    assert [f.name for f in atlas.search("mid.0/5")] == ["mid.0/5"]
    dense = atlas.search("", Filter(density=(0.4, 1.0)))
    assert {f.index for f in dense} == {7}
    assert {f.peak_step for f in atlas.search("", Filter(step=1))} == {1}
    assert all(f.label for f in atlas.search("", Filter(labelled=True)))
    order = [f.density for f in atlas.search(order="rarest", limit=24)]
    assert order == sorted(order)
    assert len(atlas.search(limit=3)) == 3
    assert atlas.search(limit=3, offset=3)[0].id not in {f.id for f in atlas.search(limit=3)}


@pytest.mark.parametrize(
    "words", ['"', "red OR", "red NOT", "a:b", "(", "NEAR(", "x'; DROP TABLE features; --", "*", "-"]
)
def test_a_search_is_words_and_never_a_query_language(atlas, words):
    assert isinstance(atlas.search(words), list)
    assert len(atlas) == len(atlas.search(limit=1000))


def test_match_quotes_every_word():
    assert match('dog "cat" re') == '"dog" "cat" "re"*'
    assert match("a dog or the cat") == '"dog" "cat"*'
    assert match("dog cat", some=True) == '"dog" OR "cat"*'
    assert match("the") == '"the"*'
    assert match(" ' ") == ""


def test_where_no_feature_has_all_words_those_with_some_are_found_and_said(atlas):
    assert atlas.find("red").note == ""
    assert atlas.find("a red") == atlas.find("red")
    mistyped = atlas.find("redd")
    assert mistyped.found == atlas.find("red").found
    assert mistyped.note == "'redd' is not known here, 'red' is."
    pairs = combinations(sorted(vocabulary(atlas.database_path)), 2)
    apart = next(pair for pair in pairs if not atlas.search(" ".join(pair)))
    some = atlas.find(" ".join(apart))
    assert {f.id for f in some.found} == {f.id for word in apart for f in atlas.search(word)}
    assert some.note == "No feature has all of these words; these have some."
    part = atlas.find("red xyzzy")
    assert [f.id for f in part.found] == [f.id for f in atlas.search("red")]
    assert "'xyzzy'" in part.note
    none = atlas.find("xyzzy")
    assert none.found == []
    assert "Words that can be found: " in none.note
    assert "red" in none.note


def test_names_of_blocks_are_filters_of_what_is_typed(atlas):
    assert {f.block for f in atlas.find("mid.0").found} == {"mid.0"}
    assert atlas.find("mid.0 red").found == atlas.search("red", Filter(block="mid.0"))
    assert [f.name for f in atlas.find("mid.0/5").found] == ["mid.0/5"]
    assert {f.index for f in atlas.find("5").found} == {5}


def test_words_that_no_caption_holds(atlas):
    assert atlas.in_no_caption("a red xyzzy 100%") == ["xyzzy", "100"]
    assert atlas.in_no_caption("Gar GARDEN den redd") == ["den", "redd"]  # words that begin so


def test_a_word_that_no_caption_holds_is_looked_up_not_searched_for(atlas):
    """One step down a tree, however many captions: SQLite's own plan, and the work it counts."""
    with connect(atlas.database_path) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {IN_CAPTION}", ["xyzzy", "xyzzz"]).fetchall()
        words = connection.execute("SELECT word FROM caption_words").fetchall()
    assert [row[3].split(" (")[0] for row in plan] == ["SEARCH caption_words USING PRIMARY KEY"]
    assert {word for (word,) in words} == {w for i in range(120) for w in caption(i).split()}


def test_an_atlas_without_the_captions_words_goes_through_its_captions(atlas, tmp_path):
    shutil.copytree(atlas.path, tmp_path / "atlas")
    before = Atlas.open(tmp_path / "atlas")
    with connect(before.database_path, write=True) as connection:
        connection.execute("DROP TABLE caption_words")
    assert before.in_no_caption("a red xyzzy 100%") == ["xyzzy", "100"]


@pytest.mark.parametrize(
    "name",
    ["mid.0/12", "mid.0/-1", "mid.0/1.5", "mid.0/", "up.9.9/0", "0", "", "mid.0/٣", "../../etc/passwd"],
)
def test_features_that_are_not_there(atlas, name):
    with pytest.raises(UnboxError, match=r"mid\.0"):
        atlas.feature(name)


def test_unknown_kinds_are_named(atlas):
    for ask in (
        lambda: atlas.examples("mid.0/0", "best"),
        lambda: atlas.examples("mid.0/0", "interval", 9),
        lambda: atlas.related("mid.0/0", "friends"),
        lambda: atlas.search("", Filter(block="up.1.1")),
        lambda: atlas.search(order="beauty"),
    ):
        with pytest.raises(UnboxError):
            ask()


def test_labels_of_people_go_first_and_can_be_taken_back(own):
    set_label(own, "mid.0/0", "  crimson   <b>things</b> ", "Ada")
    facts = own.feature("mid.0/0")
    assert (facts.label, facts.author) == ("crimson <b>things</b>", "Ada")
    assert own.search("crimson")[0].name == "mid.0/0"
    assert {label.kind for label in own.labels("mid.0/0")} == {"human", "words"}
    set_label(own, "mid.0/0", "", "Ada")
    assert own.feature("mid.0/0").label.startswith("red")
    assert own.search("crimson") == []


def test_labels_may_hold_joiners(own):
    text = "\U0001f468\u200d\U0001f467 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    set_label(own, "mid.0/0", text, "Ada")
    assert own.feature("mid.0/0").label == text
    set_label(own, "mid.0/0", "", "Ada")


@pytest.mark.parametrize("text", ["x" * 201, "bell\x07", "zero\u200bwidth"])
def test_labels_that_cannot_be(own, text):
    with pytest.raises(UnboxError):
        set_label(own, "mid.0/0", text, "Ada")


def test_no_atlas_and_damaged_ones(atlas, tmp_path):
    with pytest.raises(UnboxError, match="unbox atlas"):
        Atlas.open(tmp_path)
    shutil.copytree(atlas.path, tmp_path / "a")
    index = json.loads((tmp_path / "a/atlas.json").read_text())
    for change in ({"version": 99}, {"format": "x"}, {"data": "gone"}):
        (tmp_path / "a/atlas.json").write_text(json.dumps(index | change))
        with pytest.raises(UnboxError, match="build it again"):
            Atlas.open(tmp_path / "a")
    (tmp_path / "a/atlas.json").write_text('{"format": NaN}')
    with pytest.raises(UnboxError):
        Atlas.open(tmp_path / "a")


def test_log_odds_by_hand():
    chosen, rest = np.array([[8.0, 1.0, 3.0]]), np.array([[2.0, 9.0, 27.0]])
    z = log_odds(chosen, rest)[0]
    assert z[0] > 2 > 0 > z[1]
    swapped = log_odds(rest, chosen)[0]
    np.testing.assert_allclose(z, -swapped)


def test_auroc_of_rows_counts_ties_half():
    scores = np.array([[0, 0, 1, 1, 1, 0, 0, 1, 2, 2.0]])
    positive = np.array([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]], bool)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[0, 5:] for b in scores[0, :5]]
    assert label_auroc(scores, positive)[0] == pytest.approx(np.mean(pairs))
    assert np.isnan(label_auroc(scores, np.zeros_like(positive)))[0]


def test_terms_are_words_and_neighbours_without_stop_words():
    assert list(terms_of("A large RED circle, on the left")) == [
        "large", "red", "large red", "circle", "red circle", "left",
    ]  # fmt: skip


def test_decoder_neighbours_are_the_nearest():
    rng = np.random.default_rng(0)
    decoder = rng.normal(size=(300, 5))
    unit = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(300)
    found = neighbours(decoder, 3)
    np.testing.assert_array_equal(found.other, np.argsort(-cosine, 1)[:, :3])
    np.testing.assert_allclose(found.score[:, 0], cosine.max(1), rtol=1e-5)


def check_long_texts(model):
    """Of a text of a hundred tokens, a mean of the pipeline's own embeddings of its first 75 and the rest."""
    words = ("a cat dog " * 40).split()[:100]  # a token each
    long, parts = " ".join(words), [" ".join(words[:75]), " ".join(words[75:])]
    means, pooled = [0.0, 0.0], []
    for part, tokens in zip(parts, (77, 27), strict=True):
        with torch.no_grad():
            both, _, last, _ = model.pipeline.encode_prompt(
                part, device="cpu", do_classifier_free_guidance=False
            )
        means = [a + b.numpy() for a, b in zip(means, both[0, :tokens].sum(0).split([24, 40]), strict=True)]
        pooled.append(last[0].numpy())
    expected = np.concatenate([x / np.linalg.norm(x) for x in (*means, pooled[0])])
    np.testing.assert_allclose(embed(model, ["moon", long, "a cat"], batch=2)[1], expected, atol=1e-5)
    cut, first = embed(model, [long], chunks=False), embed(model, [parts[0]])
    np.testing.assert_allclose(cut, first, atol=1e-5)
    assert np.abs(cut[0] - expected).max() > 1e-3


def test_a_feature_that_is_near_to_every_word_is_near_to_none():
    """One vector that all texts are near to, and one that one of them is."""
    random = np.random.default_rng(0)
    common, own = np.eye(8)[0], np.eye(8)[1]
    texts = common + 0.3 * random.standard_normal((200, 8))
    query = common + 0.6 * own
    vectors = np.stack([common, own])
    plain = nearest(vectors, np.zeros(8), query)
    assert plain[0] > plain[1]
    usual = usual_likeness(vectors, np.zeros(8), texts)
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    np.testing.assert_allclose(usual, unit[:, :2].mean(0))
    assert (plain - usual)[1] > 0.4 > (plain - usual)[0]


@pytest.mark.slow
def test_meaning_by_the_pipelines_own_encoders(tmp_path):
    from unbox import load

    model = load(str(tiny_pipeline(tmp_path / "model", timestep_spacing="trailing")))
    texts = ["a red cat", "a blue house", "a red cat on a tree", "moon and boat"]
    vectors = embed(model, texts, batch=3)
    np.testing.assert_allclose(vectors, np.concatenate([embed(model, [t]) for t in texts]), atol=1e-5)
    check_long_texts(model)
    images, peaks = np.array([[0, 2], [1, -1], [-1, -1]]), np.array([[2.0, 1.0], [1.0, 0], [0, 0]])
    features, mean = feature_vectors(vectors, images, peaks)
    assert features.shape == (3, vectors.shape[1])
    assert not features[2].any()
    scores = nearest(features, mean, embed(model, ["a blue house"])[0])
    assert scores.argmax() == 1
    assert scores[1] == pytest.approx(1, abs=1e-4)
