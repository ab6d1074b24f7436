"""Looking and painting on a model that runs, and the pages' HTML."""

import asyncio
import re
import threading
import typing
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from unbox.atlas import Histogram
from unbox.edit import Edits, Feature
from unbox.errors import FieldError, UnboxError
from unbox.explorer import feature_summaries, interface
from unbox.explorer.canvas import canvas_html, changes, result_html, stale_html
from unbox.explorer.canvas_state import CanvasState, MadeImage
from unbox.explorer.device_runs import Cancelled, on_device
from unbox.explorer.edit_controls import TypedSteps, edit_of
from unbox.explorer.image_difference import mean_change
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.pages import (
    blocks_page,
    compare_page,
    explore_page,
    feature_page,
    paint_page,
    search_page,
)
from unbox.explorer.pages.feature_page import histogram_intervals
from unbox.explorer.random_draws import draw_notes
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.shared_components import InitialState, SharedComponents
from unbox.explorer.strength_strip import STRENGTHS, generate_strip, strip_html
from unbox.mask import Mask
from unbox.validation import checked


def test_what_is_seen_is_what_the_sae_says(session, recipe):
    from unbox import record

    recorded = session.record(recipe)
    model = session.model("tiny")
    with record(model, blocks=["mid.0"]) as tape:
        (image,) = model.generate("a red cat", seed=7, steps=2, guidance=0.0)
    np.testing.assert_array_equal(np.asarray(recorded.image), np.asarray(image))
    codes = session.saes["mid.0"].encode(tape["mid.0"][0])
    (name, strength), *_ = recorded.strongest("mid.0", None, 5)
    index = int(name.removeprefix("mid.0/"))
    of = codes.of(index)
    assert strength == pytest.approx(float(of.mean()), rel=1e-2)
    assert strength == pytest.approx(float(codes.dense(32).mean((0, 1, 2, 3)).max()), rel=1e-2)
    torch.testing.assert_close(
        torch.from_numpy(recorded.heat("mid.0", index)), of.amax((0, 1)), rtol=1e-2, atol=1e-3
    )
    at = dict(recorded.at("mid.0", 0.99, 0.0, 1, 4))
    here = codes.values[1, 0, 0, -1]
    assert sum(at.values()) == pytest.approx(float(here.sum()), rel=1e-2)


def test_a_guided_run_is_seen_on_both_branches(session, recipe):
    assert session.record(replace(recipe, guidance=3.0)).branches == ("cond", "uncond")


def test_a_painted_edit_changes_the_picture_where_the_mask_is(session, recipe):
    mask = np.zeros((64, 64), np.float32)
    mask[:, :24] = 1
    edit = session.feature("up.1.2/0").add(400.0, unit="deviation", where=mask, steps=(1, 2))
    made = paint_page.generate(session, replace(recipe, edits=Edits((edit,))))
    inside, outside = mean_change(made.before, made.after, mask)
    assert inside > 1.5 * outside  # the tiny VAE's attention and norms spread the rest
    html = result_html(made)
    assert f"{inside:.1f} inside the mask" in html
    off = paint_page.generate(session, replace(made.recipe, off=frozenset({0})))
    np.testing.assert_array_equal(np.asarray(off.after), np.asarray(off.before))


def box_of(*columns: int) -> np.ndarray:
    mask = np.zeros((64, 64), np.float32)
    mask[:, slice(*columns)] = 1
    return mask


def test_changes_are_told_of_the_union_of_masks_and_of_each(session):
    """A picture that changes by 80 in its first quarter, 40 in its second, 8 in the other half."""
    before = Image.new("RGB", (64, 64))
    levels = np.repeat(np.uint8([80, 40, 8, 8]), 16)[None, :, None]
    after = Image.fromarray(np.broadcast_to(levels, (64, 64, 3)))
    one, two = (session.feature(f"mid.0/{i}") for i in (0, 1))
    left, right = one.add(1.0, where=box_of(0, 16)), two.add(1.0, where=box_of(16, 32))
    assert changes(before, after, Edits((left,)))[0].startswith("mean change 80.0 inside the mask, 18.7 out")
    both = changes(before, after, left + right)
    assert both[0].startswith("mean change 60.0 inside the masks, 8.0 outside")
    assert [line.rpartition(": ")[2] for line in both[1:]] == ["80.0 inside its mask", "40.0 inside its mask"]
    for edits in (left + two.add(1.0), left + two.add(1.0, where="own"), Edits((two.add(1.0),)), Edits()):
        (told,) = changes(before, after, edits)
        assert told.startswith("mean change 34.0 (of 255)")
        assert "side" not in told


def test_a_picture_of_something_else_is_marked(recipe):
    picture = Image.new("RGB", (8, 8))
    edited = replace(recipe, edits=Edits((Feature("mid.0", 1).add(1.0),)))
    control = replace(recipe, edits=Edits((Feature("mid.0", 2).add(1.0),)))
    assert not stale_html(None, recipe)
    assert not stale_html(MadeImage(recipe, picture), replace(edited, off=frozenset({0})))  # painted on
    assert "not drawn yet" in stale_html(MadeImage(recipe, picture), edited)
    assert 'data-rerun="5"' in stale_html(MadeImage(recipe, picture), edited, "5")
    assert stale_html(MadeImage(recipe, picture), replace(recipe, seed=8))
    assert not stale_html(MadeImage(edited, picture, picture), edited)
    assert not stale_html(MadeImage(control, picture, picture, wanted=edited), edited)
    for other in (recipe, control, replace(edited, guard=True), replace(edited, seed=1), None):
        assert stale_html(MadeImage(edited, picture, picture), other)


def test_copies_are_of_the_picture_that_is_shown(session, recipe):
    edited = replace(recipe, edits=Edits((session.feature("mid.0/1").add(2.0, unit="deviation"),)))
    made = paint_page.generate(session, edited, range(4, 7))
    assert made.wanted == edited != made.recipe
    assert [each.draw for each, _ in made.draws] == [4, 5, 6]
    assert made.recipe == session.random_control(edited, 4)
    assert made.recipe.draw == Recipe.from_json(made.recipe.to_json()).draw == 4
    assert len({each.edits for each, _ in made.draws}) == 3
    later = CanvasState(replace(edited, seed=99, edits=Edits()))
    text = paint_page.copied(session, later, made, "JSON")
    assert Recipe.from_text(text) == made.recipe
    (again,) = session.generate([Recipe.from_text(text)])
    np.testing.assert_array_equal(np.asarray(again), np.asarray(made.after))
    assert Recipe.from_text(paint_page.copied(session, later, None, "JSON")) == later.recipe


def test_draws_have_figures_inside_the_masks_and_outside(session, recipe):
    edits = Edits(
        (session.feature("mid.0/1").add(300.0, unit="deviation", where=Mask.of((0.0, 0.0, 0.5, 1.0))),)
    )
    made = paint_page.generate(session, replace(recipe, edits=edits), range(5))
    inside, outside = draw_notes(made)
    before = np.asarray(made.before, float)

    def change(image, part):
        return np.abs(np.asarray(image, float) - before).mean(-1)[:, part].mean()

    for note, part in ((inside, slice(0, 32)), (outside, slice(32, 64))):
        own, drawn = change(made.edited, part), [change(image, part) for _, image in made.draws]
        numbers = [float(each) for each in re.findall(r"\d+\.\d", note)]
        assert numbers == pytest.approx([own, np.mean(drawn), min(drawn), max(drawn)], abs=0.06)
        assert "n = 5, draws 0 to 4" in note


def test_changes_over_seeds_are_those_of_each(session, recipe):
    edited = replace(recipe, edits=Edits((session.feature("mid.0/1").add(300.0, unit="deviation"),)))
    found = compare_page.changes_of(session, recipe, edited, 5)["up.1.2"]
    for row, seed in enumerate(range(recipe.seed, recipe.seed + 5)):
        left, right = (session.record(replace(each, seed=seed)) for each in (recipe, edited))
        means = [each.mean_activations("up.1.2", 32) for each in (left, right)]
        np.testing.assert_array_equal(found[row], means[1] - means[0])
    html = compare_page.comparison_html(session, left, right, found={"up.1.2": found}, chosen="up.1.2/1")
    assert "of 5 seeds" in html
    assert html.count("where up.1.2/1 is active") == 2  # both heat maps, under one scale


def test_intervals_are_called_by_their_own_ends():
    counts = np.arange(12)
    intervals = histogram_intervals(Histogram(np.linspace(0, 54.66, 13), counts), 4, largest=58.19)
    assert [each.label for each in intervals] == [
        "0.0\u201313.7",
        "13.7\u201327.3",
        "27.3\u201341.0",
        "\u2265 41.0",
    ]
    assert [count for each in intervals for count, _ in each.bars] == list(counts)
    (*_, last) = histogram_intervals(Histogram(np.linspace(0, 54.66, 13), counts), 4, largest=54.66)
    assert last.label == "41.0\u201354.7"


def test_changes_of_a_hundredth_lead_no_comparison(session, recipe):
    """Feature `loud` changes by half its mean, `still` by a thousandth, both on every place."""
    stats = session.saes["mid.0"].stats
    loud, still = np.argsort(-stats.density.numpy(), kind="stable")[:2]
    means = stats.mean_active.numpy()

    def recorded(*shares: float) -> RecordedImage:
        values = np.zeros((1, 1, 4, 4, 2), np.float32)
        values[...] = np.float32([shares[0] * means[loud], shares[1] * means[still]])
        indices = np.broadcast_to(np.int32([loud, still]), values.shape)
        return RecordedImage(
            recipe, Image.new("RGB", (8, 8)), (0,), ("cond",), {"mid.0": values}, {"mid.0": indices}
        )

    for telling in (True, False):
        more, less = compare_page.differing(session, recorded(1, 1), recorded(1.5, 1.001), telling)["mid.0"]
        assert [name for name, _ in more] == [f"mid.0/{loud}"]
        assert not less
    more, less = compare_page.differing(session, recorded(1, 1), recorded(1, 0.5))["mid.0"]
    assert (more, [name for name, _ in less]) == ([], [f"mid.0/{still}"])


def test_a_short_recipe_has_its_systems_own_settings(session):
    short = session.completed({"system": "tiny", "prompt": "a", "seed": 3, "steps": 1})
    assert (short.height, short.width, short.steps, short.guidance) == (64, 64, 1, 0.0)
    with pytest.raises(FieldError, match=r"height x width.*512 x 64.*should be at most 4 times the 64 x 64"):
        session.generate([replace(short, height=256 + 8 * 32)])


def test_the_random_control_is_pushed_as_far(session, recipe):
    sae = session.saes["mid.0"]
    index = next(i for i in range(32) if sae.stats.mean_active[i] > 0)
    edits = session.feature(f"mid.0/{index}").add(3.0) + session.feature("up.1.2/1").ablate()
    asked = replace(recipe, edits=edits, off=frozenset({1}))
    control = session.random_control(asked)
    (edit,) = control.edits  # those that are off are not a part of it
    (other,) = edit.feature

    def norm(value, feature):
        return value * float(sae.stats.mean_active[feature] * sae.W_dec[feature].norm())

    assert other != index
    assert norm(edit.value, other) == pytest.approx(norm(3.0, index))
    assert control == session.random_control(asked)
    assert session.random_control(replace(asked, seed=8)) != control
    assert session.generate([control])


def test_the_guard_keeps_the_picture_nearer(session, recipe):
    wild = replace(recipe, edits=Edits((session.feature("mid.0/1").add(500.0, unit="deviation"),)))
    plain, loose, kept = session.generate([recipe, wild, replace(wild, guard=True)])
    assert mean_change(plain, kept)[0] < mean_change(plain, loose)[0]


def test_a_picture_at_hand_is_not_made_again(session, recipe):
    model, steps = session.model("tiny"), []
    handle = model.unet.register_forward_hook(lambda *_: steps.append(1))
    edited = replace(recipe, seed=31, edits=Edits((session.feature("mid.0/1").add(3.0),)))
    try:
        before, after = session.generate([edited.plain, edited])
        assert len(steps) == 2  # one batch of two, two steps
        others = replace(edited, off=frozenset({0})), replace(edited.plain, guard=True), edited
        pictures = [before, before, after]
        assert all(a is b for a, b in zip(session.generate(others), pictures, strict=True))
        assert len(steps) == 2
        assert not session.has_pictures([replace(edited, guard=True)])
        recorded = session.record(edited)
        assert len(steps) == 4
        assert session.record(replace(edited)).values["mid.0"] is recorded.values["mid.0"]
        assert session.at_hand(edited).recipe == edited
        assert len(steps) == 4
        np.testing.assert_array_equal(np.asarray(recorded.image), np.asarray(after))
    finally:
        handle.remove()


def test_stopping_leaves_the_model_as_it_was(session, recipe):
    before = np.asarray(session.generate([recipe])[0])
    edited = replace(recipe, edits=Edits((session.feature("mid.0/1").add(3.5, unit="deviation"),)))
    model = session.model("tiny")
    seen_steps = []

    async def run_and_stop():
        loop, over = asyncio.get_running_loop(), threading.Event()

        async def stop():
            run.cancel()
            await asyncio.wait([run])

        def after_step(*_):
            seen_steps.append(len(seen_steps))
            asyncio.run_coroutine_threadsafe(stop(), loop).result()

        def record():
            with pytest.raises(Cancelled):
                session.record(edited)
            over.set()

        handle = model.unet.register_forward_hook(after_step)
        run = asyncio.create_task(on_device(record)())
        await asyncio.wait([run])
        assert run.cancelled()
        handle.remove()
        assert await on_device(over.is_set)()  # the next run waits for the end of the one that is stopped

    asyncio.run(run_and_stop())
    assert seen_steps == [0]
    assert not model.unet._forward_pre_hooks
    assert not any(model.block(block)._forward_hooks for block in model.blocks)
    (again,) = model.generate(recipe.prompt, seed=recipe.seed, steps=recipe.steps, guidance=recipe.guidance)
    np.testing.assert_array_equal(np.asarray(again), before)


@pytest.mark.parametrize(
    "name", ["mid.0/32", "mid.0/-1", "up.9/1", "x", "", "mid.0/1e3", "mid.0/" + "9" * 99]
)
def test_features_that_are_not_there(session, name):
    with pytest.raises(UnboxError):
        session.feature(name)


def test_systems_that_are_not_there(session):
    with pytest.raises(UnboxError, match="there are tiny"):
        session.model("../../etc/passwd")


def test_pages_say_what_is_known(session, recipe):
    recorded = session.record(recipe)
    stage, features, card = explore_page.show(session, recorded, explore_page.View(chosen="mid.0/0"))
    assert "ub-heat" in stage
    assert features.count("data-go") == sum(
        len(recorded.strongest(s, None, feature_summaries.SHOWN, session.rarity(s))) for s in recorded.values
    )
    assert "Open its page" in card
    body = feature_page.body(session, "mid.0/0", 0)
    assert "In this interval" in body
    assert "Most active" in body
    assert "ub-card" in search_page.results(session, search_page.SearchQuery("red"))
    assert "likeness" in search_page.results(
        session, search_page.SearchQuery("a red circle", search_page.MEANING)
    )
    assert "No feature fits" in search_page.results(session, search_page.SearchQuery("zebra crossing"))
    assert "mid.0" in blocks_page.body(session)
    edited = replace(recipe, edits=Edits((session.feature("mid.0/1").add(8.0, unit="deviation"),)))
    differs = compare_page.comparison_html(session, recorded, session.record(edited))
    assert "mid.0: more on the right" in differs


def test_meaning_heeds_the_other_filters(session):
    whole = search_page.SearchQuery("a red circle", search_page.MEANING)
    everywhere = search_page.results(session, whole)
    assert "up.1.2/" in everywhere
    assert "mid.0/" in everywhere
    assert "up.1.2/" not in search_page.results(session, replace(whole, block="mid.0"))
    assert search_page.results(session, replace(whole, low=-0.1)).count("ub-card") < everywhere.count(
        "ub-card"
    )


def test_a_search_and_its_link():
    asked = search_page.SearchQuery("red", search_page.MEANING, "mid.0", "1", -3.0, -1.0, True, "rarest")
    assert search_page.SearchQuery.from_link(asked.to_link()) == asked
    assert search_page.SearchQuery("red").to_link() == {"q": "red"}
    assert search_page.SearchQuery.from_link({"q": "x", "low": ""}) == search_page.SearchQuery("x")
    for name, text in (
        ("low", "nan"),
        ("high", "1e308"),
        ("low", "x"),
        ("labelled", "?"),
        ("step", "x"),
        ("by", "sql"),
    ):
        with pytest.raises(FieldError, match=f"link: {name} = "):
            search_page.SearchQuery.from_link({name: text})


@pytest.mark.parametrize(
    "asked",
    [
        {"step": "x"},
        {"step": "7"},
        {"block": "up.9"},
        {"order": "beauty"},
        {"q": "a" * 301},
        {"q": 7},
        {"low": float("nan")},
        {"high": 1},
        {"labelled": None},
        {"by": search_page.MEANING, "q": ""},
    ],
)
def test_searches_that_cannot_be(session, asked):
    with pytest.raises(UnboxError):
        search_page.results(session, search_page.SearchQuery(**{"q": "a", **asked}))


def test_both_sides_of_a_comparison(session, recipe):
    edits = Edits((session.feature("mid.0/1").add(8.0, unit="deviation"),))
    painted, kept = replace(recipe, edits=edits), replace(recipe, edits=edits + edits)
    sets = {compare_page.PAINTED: painted, compare_page.SAVED: kept}
    assert compare_page.side(session, recipe, compare_page.PLAIN, sets) == recipe
    assert compare_page.side(session, recipe, compare_page.PAINTED, sets) == painted
    assert compare_page.side(session, recipe, compare_page.SAVED, sets) == kept
    control = compare_page.side(session, recipe, compare_page.CONTROL, sets)
    assert control.edits != edits
    assert control == session.random_control(painted)
    assert compare_page.side(session, replace(recipe, steps=9), "tiny", sets).steps == 2
    for choice, instead in ((compare_page.SAVED, None), (compare_page.PAINTED, recipe)):
        with pytest.raises(UnboxError, match="add an edit"):
            compare_page.side(session, recipe, choice, {**sets, choice: instead})


def test_the_labels_of_a_bundled_atlas_are_the_users_own(session, tmp_path):
    import shutil

    from unbox.atlas import Atlas, set_label

    shutil.copytree(session.atlas.path, tmp_path / "bundled")
    bundled = Atlas.open(tmp_path / "bundled", label_copy=tmp_path / "cache")
    before = bundled.database_path.read_bytes()
    set_label(bundled, "mid.0/2", "my word", "me")
    assert bundled.feature("mid.0/2").label == "my word"
    assert Atlas.open(tmp_path / "bundled").feature("mid.0/2").label != "my word"
    assert (bundled.folder / "atlas.sqlite").read_bytes() == before
    assert (
        Atlas.open(tmp_path / "bundled", label_copy=tmp_path / "cache").search("my word")[0].name == "mid.0/2"
    )


def test_a_copy_of_a_guarded_picture_makes_the_same_picture(session, recipe):
    edit = session.feature("mid.0/1").add(500.0, unit="deviation")
    guarded = replace(recipe, edits=Edits((edit,)), guard=True)
    assert "without the guard" in guarded.to_command()
    code = guarded.to_python(session.folder, session.norms_of(guarded)).replace(
        "'tiny'", repr(str(session.model("tiny").source))
    )
    code = code[: code.rindex("\n")]  # all but the saving
    made: dict = {}
    exec(code, made)
    (image,) = session.generate([guarded])
    np.testing.assert_array_equal(np.asarray(made["image"]), np.asarray(image))


def test_blocks_show_what_bench_and_evaluate_wrote(session, tmp_path):
    from unbox.explorer.session import ExplorerSession

    judged = {"success": 0.75, "success_low": 0.5, "success_high": 0.9}
    bench = {
        "ownership": [{"kind": "colour", "block": "mid.0", **judged}],
        "meaning": [{"block": "mid.0", "method": "sae", "factor": "colour", "value": "red", "auroc": auroc}
                    for auroc in (0.9, 1.0)],
    }  # fmt: skip
    figures = {"mid.0": {"explained_variance": 0.123}}
    body = blocks_page.body(
        ExplorerSession(session.model("tiny"), session.saes, session.atlas, figures=figures, bench=bench)
    )
    assert "0.75 (0.50 to 0.90)" in body
    assert "0.950" in body
    assert "0.123" in body


def test_strengths_go_from_icon_to_picture(session):
    strip = generate_strip(session, "mid.0/3", "a red cat")
    assert strip_html("mid.0/3", strip).count("<img") == len(STRENGTHS) + 1


def test_gradio_can_read_the_annotations_of_every_event(session):
    """Else it passes no request, no event and no progress, in silence."""

    async def functions():
        return [each.fn for each in interface.build(session).fns.values() if each.fn is not None]

    for fn in asyncio.run(functions()):
        typing.get_type_hints(fn)


HOSTILE = "<script>alert(1)</script> ${alert(2)} {{value}} \"'><img src=x onerror=alert(3)>"


def test_no_text_becomes_markup(session, recipe, tmp_path):
    import shutil

    from unbox.atlas import Atlas, set_label
    from unbox.explorer.session import ExplorerSession

    shutil.copytree(session.atlas.path, tmp_path / "atlas")
    own = ExplorerSession(session.model("tiny"), session.saes, Atlas.open(tmp_path / "atlas"))
    set_label(own.atlas, "mid.0/0", HOSTILE, HOSTILE)
    recorded = replace(own.record(recipe), recipe=replace(recipe, prompt=HOSTILE))
    state = CanvasState(replace(recipe, prompt=HOSTILE))
    pages = [
        *explore_page.show(own, recorded, explore_page.View("all", explore_page.STRONG, "mid.0/0")),
        feature_page.body(own, "mid.0/0", None),
        search_page.results(own, search_page.SearchQuery("script")), canvas_html(state, None),
        compare_page.comparison_html(own, recorded, recorded),
    ]  # fmt: skip
    assert any("&lt;script&gt;" in page for page in pages)
    for page in pages:
        assert "<script" not in page
        assert "<img src=x" not in page
        assert "onerror=alert(3)>" not in page.replace("onerror=alert(3)&gt;", "")


@pytest.fixture
def painting(session, recipe):
    """The Paint page with what it shares, drawn in an app of its own."""

    async def draw():  # Gradio leaves an event loop open where none is running
        with gr.Blocks():
            page = paint_page.draw(session, InitialState(recipe))
            return page, SharedComponents(session, gr.Tabs(), gr.Textbox())

    return asyncio.run(draw())


def test_a_recipe_of_another_system_says_so(painting):
    page, shared = painting
    with pytest.raises(UnboxError, match="other-system"):
        page.open_recipe(shared, Recipe("other-system", "a", 0, 1, 0.0, 64, 64), "JSON")


def test_opening_a_recipe_or_a_picture_sets_only_components_that_its_events_name(painting, session, recipe):
    page, shared = painting
    allowed = {*page.opened, shared.tabs}
    other = replace(recipe, seed=11, prompt="a blue cat", guard=True)
    restored = page.open_recipe(shared, other, "JSON")
    assert set(restored) <= allowed
    assert page.controls.recipe([restored[each] for each in page.controls.components]) == replace(
        other, guard=False
    )
    assert restored[page.guard] is True
    opened = page.open_image(shared, session.record(other), "mid.0/3", "JSON")
    assert set(opened) <= allowed
    assert opened[page.edit.feature] == "mid.0/3"
    assert "Before and after appear here" in opened[page.result]


def test_an_edit_goes_into_its_controls_and_out_again(painting, session):
    page, _ = painting
    mask = Mask.of(np.eye(64, dtype=np.float32))
    for edit in (
        session.feature("mid.0/3").add(2.0, unit="deviation", where=mask, steps=(0, 2), branch="cond"),
        session.feature("mid.0/3").scale(0.5, where="own"),
        session.feature("mid.0/3").replace(2.0, unit="mean"),
    ):
        updates = page.edit.updates(edit)
        assert edit_of(session, mask, [updates[each] for each in page.edit.components]) == edit


def test_steps_of_an_edit():
    for text, steps in (("all", None), ("", None), (None, None), ("2", (2, 3)), (" 0 - 2 ", (0, 3))):
        assert checked(TypedSteps, "steps", text) == steps
    for wrong in ("-1", "x", "1.5", "٣", "0-99999999", "2-0", "1-", 2, ["all"]):
        with pytest.raises(FieldError, match=r"steps = .*: should "):
            checked(TypedSteps, "steps", wrong)


def test_the_opened_model_stays_and_others_come_to_its_device(session, monkeypatch):
    """It was opened with its user's options (a LoRA, a file), by which no name opens it again."""
    from unbox.explorer.session import ExplorerSession

    asked = []
    monkeypatch.setattr(
        "unbox.explorer.session.load", lambda *given, **options: asked.append((given, options)) or len(asked)
    )
    first = session.model("tiny")
    own = ExplorerSession(first, systems=["a", "b"])
    assert [own.model(name) for name in ("a", "b", "a")] == [1, 2, 3]
    assert own.model("tiny") is first
    assert asked[0] == (("a", first.dtype, first.device), {"download": False})
    assert own.opened_as("b").line == "--model b"


def test_the_largest_activation_of_each_feature(recipe):
    values = np.array([[0.5, 0.25], [2.0, 1.0]], np.float16).reshape(2, 1, 1, 1, 2)  # two steps of one place
    indices = np.array([[3, 0], [0, 3]], np.int32).reshape(values.shape)
    image = Image.new("RGB", (8, 8))
    recorded = RecordedImage(recipe, image, (0, 2), ("cond",), {"mid.0": values}, {"mid.0": indices})
    assert recorded.peaks("mid.0", None, 5).tolist() == [2.0, 0.0, 0.0, 1.0, 0.0]
    assert recorded.peaks("mid.0", 0, 5).tolist() == [0.25, 0.0, 0.0, 0.5, 0.0]
