"""Long prompts in chunks and weighted words in what is recorded: the rows, what a store says of them, what is
refused."""

import json
import warnings

import numpy as np
import pytest
import torch

import unbox
from activation_store import merge
from tests.models.test_prompt_embeddings import LONG, SEVENTY_FIVE
from unbox.atlas.build import captions_of
from unbox.capture import Stream, collect, estimate
from unbox.capture.add_blocks import add_blocks
from unbox.capture.collect_settings import CollectOptions
from unbox.cli.main import main
from unbox.errors import UnboxError
from unbox.explorer.image_recipe import Recipe
from unbox.models.sampling_options import PromptOptions, prompt_options
from unbox.models.seeds import image_seed

PROMPTS = ["a (cat:1.5)", f"{LONG} (dog:0.5)", "a dog"]
RUN = {"blocks": ("mid.0",), "steps": 1, "guidance": 2.0, "height": 32, "width": 32, "seed": 9}
RUN |= {"store_dtype": "float32", "thumbnail": None, "progress": False}
READ = {"long_prompts": "chunks", "prompt_weights": True}


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    with warnings.catch_warnings(action="error", category=UserWarning):  # nothing is cut off
        return collect(model, PROMPTS, tmp_path_factory.mktemp("read") / "s", **RUN, **READ)


def by_hand(model, index):
    """The updates (branch, y, x, channel) of a prompt whose embeddings the test makes itself: chunks one
    after the other, words moved from the empty prompt by their weights."""
    pipeline = model.pipeline

    def encoded(text):
        embeds, _, pooled, _ = pipeline.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)
        return embeds, pooled

    def weighed(text, place, weight):
        (embeds, pooled), (empty, _) = encoded(text), encoded("")
        embeds[:, place] = empty[:, place] + weight * (embeds[:, place] - empty[:, place])
        return embeds, pooled

    rest = LONG.removeprefix(SEVENTY_FIVE).strip()
    with torch.no_grad():
        chunks = {
            0: [weighed("a cat", 2, 1.5)],
            1: [encoded(SEVENTY_FIVE), weighed(f"{rest} dog", 1 + len(rest.split()), 0.5)],
            2: [encoded("a dog")],
        }[index]
        embeds = torch.cat([chunk for chunk, _ in chunks], dim=1)
        with unbox.record(model, ["mid.0"]) as tape:
            pipeline(
                prompt_embeds=embeds, pooled_prompt_embeds=chunks[0][1],
                negative_prompt_embeds=torch.zeros_like(embeds),
                negative_pooled_prompt_embeds=torch.zeros_like(chunks[0][1]),
                num_inference_steps=1, guidance_scale=2.0, height=32, width=32, output_type="latent",
                generator=torch.Generator().manual_seed(image_seed(9, index)),
            )  # fmt: skip
    return tape["mid.0"][0, 0].numpy()


@pytest.mark.parametrize("index", range(3))
def test_rows_are_those_of_embeddings_made_by_hand(model, store, index):
    got = store["mid.0"].read(index)[0]
    assert np.abs(got - by_hand(model, index)).max() < 1e-4 * np.abs(got).max()


def test_a_store_says_how_prompts_were_read_and_one_of_the_usual_way_says_nothing(model, store, tmp_path):
    assert {name: store.provenance[name] for name in READ} == READ
    assert [dict(sample.meta) for sample in store.samples] == [{}, {}, {}]
    with pytest.warns(UserWarning, match="cut off"):
        usual = collect(model, PROMPTS, tmp_path / "s", **RUN)
    assert not set(READ) & set(usual.provenance)  # its digest is that of a store before there were these
    assert usual.samples[1].meta["tokens_cut"] > 20
    with pytest.warns(UserWarning, match="cut off"):
        weighted = collect(model, PROMPTS, tmp_path / "w", **RUN, prompt_weights=True)
    assert weighted.samples[1].meta == {"tokens_cut": 26}  # 75 + 25 + "dog" - 75: the signs are no tokens
    both = merge([store.path, usual.path], tmp_path / "both")
    with pytest.raises(UnboxError, match="parts of this merged store read their prompts in different ways"):
        prompt_options(both.provenance)
    same = merge([store.path, store.path], tmp_path / "same")
    assert prompt_options(same.provenance) == PromptOptions(**READ)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "long_prompts was chunks, is cut; prompt_weights was true, is false"),
        ({"long_prompts": "chunks"}, "prompt_weights was true, is false"),
    ],
)
def test_another_reading_in_the_same_folder_is_refused_by_name(model, store, settings, told):
    with pytest.raises(UnboxError, match=told):
        collect(model, PROMPTS, store.path, **RUN, **settings)
    assert len(collect(model, PROMPTS, store.path, **RUN, **READ)) == 3


def test_a_store_of_the_usual_way_is_not_gone_on_with_in_another(model, tmp_path):
    collect(model, ["a cat"], tmp_path, **RUN)
    with pytest.raises(UnboxError, match="prompt_weights was false, is true"):
        collect(model, ["a cat"], tmp_path, **RUN, prompt_weights=True)


def test_streams_and_added_blocks_read_as_the_store_does(model, store, tmp_path):
    given = {name: value for name, value in RUN.items() if name not in ("blocks", "progress")}
    found = np.concatenate([*Stream(model, PROMPTS, "mid.0", **given, **READ).batches(512, seed=1)])
    rows = store["mid.0"].read_images(range(3)).reshape(-1, store["mid.0"].width)
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(rows, axis=0), atol=1e-4)
    copy = collect(model, PROMPTS, tmp_path, **RUN, **READ)
    added = add_blocks(model, copy.path, CollectOptions(blocks=("up.0.1",), progress=False))
    whole = collect(model, PROMPTS, tmp_path / "whole", **RUN | {"blocks": ("mid.0", "up.0.1")}, **READ)
    np.testing.assert_array_equal(
        added["up.0.1"].read_images(range(3)), whole["up.0.1"].read_images(range(3))
    )


def test_what_cannot_be_read_so_is_refused_by_number_and_site(model, tmp_path):
    with pytest.raises(UnboxError, match=r"prompt 1: the prompt 'a \(cat' has a \( without its end"):
        collect(model, ["a dog", "a (cat"], tmp_path / "a", **RUN, prompt_weights=True)
    with pytest.raises(UnboxError, match=r"prompt 0: a prompt of .* letters has 120 chunks"):
        collect(model, [" ".join(["cat"] * 75 * 120)], tmp_path / "b", **RUN, long_prompts="chunks")
    texts = RUN | {"blocks": ("mid.0", "text.1.0")}
    with pytest.raises(UnboxError, match=r"text encoders are recorded as .* leave long_prompts out"):
        collect(model, ["a dog"], tmp_path / "c", **texts, long_prompts="chunks")


def test_a_plan_says_nothing_of_long_prompts_that_are_read_whole(model):
    given = {name: value for name, value in RUN.items() if name != "progress"}
    assert estimate(model, PROMPTS, **given, **READ).cut == ""
    assert "longer than the 77 tokens" in estimate(model, PROMPTS, **given).cut


@pytest.mark.parametrize("command", ["collect --store", "train --out"])
def test_a_bracket_in_a_file_is_refused_before_a_model_is_loaded(command, tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text("a dog\n\na (cat\n")
    line = f"{command} {tmp_path}/out --model nothing-there --prompts {file} --offline --prompt-weights"
    assert main(line.split()) == 2
    assert "line 3" in (said := capsys.readouterr().err)
    assert "has a ( without its end" in said
    assert not (tmp_path / "out").exists()


def test_an_atlas_reads_what_prompts_say_without_their_signs(store, model, tmp_path):
    assert captions_of(store)(store.samples[0].prompt) == "a cat"
    usual = collect(model, ["a (cat:1.5)"], tmp_path, **RUN)
    assert captions_of(usual)("a (cat:1.5)") == "a (cat:1.5)"


def test_the_explorer_refuses_pictures_of_prompts_that_it_does_not_read_so():
    recipe = {"system": "x", "prompt": "a (cat:1.5)", "seed": 1, "prompt_weights": True}
    with pytest.raises(UnboxError, match="prompt_weights"):
        Recipe.from_json(json.loads(json.dumps(recipe)))
