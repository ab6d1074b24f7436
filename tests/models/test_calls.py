"""A call's options are said once, and what is below a model names nothing above it."""

import ast
import inspect
from dataclasses import fields
from pathlib import Path

import pytest

import unbox.models
from unbox.models import Call, Model, find_system
from unbox.models.calls import Sampling, image_calls
from unbox.models.checks import check_sampling
from unbox.site import unet_sites

ROOM = Path(unbox.models.__file__).parent


def imported(name):
    """Modules of the room that a module of it imports, anywhere in it."""
    tree = ast.parse((ROOM / f"{name}.py").read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {module.rpartition(".")[2] for module in found if module.startswith("unbox.models.")}


def test_the_signature_of_generate_is_the_fields_of_a_call():
    self, prompts, *options = inspect.signature(Model.generate).parameters.values()
    assert (self.name, prompts.name) == ("model", "prompts")
    assert [(o.name, o.default) for o in options] == [(f.name, f.default) for f in fields(Call)]
    assert {o.kind for o in options} == {inspect.Parameter.KEYWORD_ONLY}


def test_an_unknown_option_is_named_with_those_there_are(model):
    with pytest.raises(
        TypeError, match=r"no option sed \(is it seed\?\); the options are .*, seed, seeds, steps"
    ):
        model.generate("a cat", sed=1)


def test_the_former_name_of_an_option_works_and_says_the_new_one(model):
    call = {"seed": 0, "steps": 1, "output": "latent"}
    with pytest.warns(DeprecationWarning, match="instruments= is now called hooks="):
        (image,) = model.generate("a cat", instruments=[], **call)
    assert image.equal(model.generate("a cat", hooks=[], **call)[0])


def test_the_clock_stands_on_the_lock_alone_and_no_two_modules_import_each_other():
    assert (imported("clock"), imported("run_lock")) == (
        {"finite", "offload_lookup", "run_lock", "timestep_table"},
        set(),
    )
    names = [path.stem for path in ROOM.glob("[a-z]*.py")]
    above = {name: imported(name) for name in names}
    for _ in names:
        above = {name: seen.union(*(above[other] for other in seen)) for name, seen in above.items()}
    assert not [name for name, seen in above.items() if name in seen]


def test_the_clock_needs_two_things_of_a_model(model):
    from unbox.models.clock import clock

    class Leaf:
        clock = None
        pipelines = model.pipelines

    leaf = Leaf()
    with clock(leaf) as now:
        model.pipeline("a cat", num_inference_steps=1, guidance_scale=0.0, output_type="latent")
        assert (leaf.clock, now.step, now.branches) == (now, 0, ("cond",))
    assert leaf.clock is None


def test_checks_take_plain_values():
    sampling = Sampling.of(Call(steps=1, guidance=7.0), find_system("sdxl-turbo"), 512, 8)
    assert (sampling.height, sampling.width) == (512, 512)
    scheduler = type("Laid", (), {"timesteps": [999], "config": {"num_train_timesteps": 1000}})()
    scheduler.set_timesteps = lambda steps: None
    with pytest.warns(UserWarning, match="guidance is distilled into sdxl-turbo"):
        check_sampling(sampling, scheduler)
    assert [image.prompt for image in image_calls("a", Call(seeds=range(3)))] == ["a"] * 3


def test_the_models_sites_are_sdxls(model):
    """The tiny SDXL has the levels and attentions of the real one."""
    sdxl_sites = unet_sites(down=(0, 2, 2), up=(3, 3, 0))
    assert tuple(model.sites.values()) == sdxl_sites
    assert len(sdxl_sites) == 11
    grids = {site.name: site.grid(10, 13) for site in sdxl_sites}
    assert (grids["down.1.0"], grids["mid.0"], grids["up.1.2"]) == ((5, 7), (3, 4), (5, 7))
