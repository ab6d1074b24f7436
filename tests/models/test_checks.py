"""Wrong combinations warn or refuse, with the reason; right ones say nothing (warnings are errors here)."""

import json
import warnings
from dataclasses import replace
from shutil import copytree

import pytest
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from PIL import Image
from safetensors.torch import save_file

from tests.models.tiny import SDXL_BETAS, tiny_unet
from unbox.errors import UnboxError
from unbox.models import SYSTEMS, Micro, load
from unbox.models.checks import check_unnamed


def small(name, **changes):
    return replace(SYSTEMS[name], size=64, parts=(), **changes)


def latents(model, **settings):
    return model.generate("a cat", seed=1, height=16, width=16, output="latent", **settings)


def test_a_configuration_beside_a_folder_is_refused(tiny):
    with pytest.raises(UnboxError, match=r"config \(--config\) is for a single-file checkpoint"):
        load(tiny, config=tiny)


def test_one_step_with_leading_is_refused(tiny):
    base = load(tiny, system=small("sdxl-base"))
    with pytest.raises(UnboxError, match=r"'leading' spacing 1 step\(s\) begin at timestep 1 of 1000"):
        latents(base, steps=1)
    with pytest.warns(UserWarning, match="begin at timestep 501"):
        latents(base, steps=2)


def test_a_users_own_scheduler_is_checked_too(tiny):
    """The check reads the scheduler that will run, whatever the row said."""
    turbo = load(tiny, system=small("sdxl-turbo"))
    turbo.pipeline.scheduler.register_to_config(timestep_spacing="leading")
    with pytest.raises(UnboxError, match="begin at timestep"):
        latents(turbo, steps=1)


def test_x0_sampling_of_an_epsilon_checkpoint_is_refused(tiny, tmp_path):
    with pytest.raises(UnboxError, match=r"UNet's output as sample, but the scheduler .* says epsilon"):
        load(tiny, system=small("sdxl-lightning-1step"))
    save_file(tiny_unet().state_dict(), tmp_path / "unet.safetensors")
    load(tiny, system=small("sdxl-lightning-1step"), unet=tmp_path / "unet.safetensors")


def test_v_sampling_of_an_epsilon_checkpoint_warns(tiny, tiny_v):
    with pytest.warns(UserWarning, match="output as v_prediction, but the scheduler .* says epsilon"):
        load(tiny, system=small("novelai-v3"))
    load(tiny_v, system=small("novelai-v3"))


def test_guidance_on_a_distilled_system_warns(tiny):
    turbo = load(tiny, system=small("sdxl-turbo"))
    with pytest.warns(UserWarning, match=r"distilled into sdxl-turbo: classifier-free guidance 5"):
        latents(turbo, guidance=5.0)
    latents(turbo, guidance=1.0)


def test_what_authors_allow_on_top_does_not_warn(tiny):
    lcm = load(tiny, system=small("lcm-sdxl-lora"))
    latents(lcm, guidance=2.0, steps=2)
    with pytest.warns(UserWarning, match=r"guidance 2\.5 on top oversaturates; use at most 2"):
        latents(lcm, guidance=2.5, steps=2)


def test_a_finetune_of_a_few_step_model_is_told_by_its_scheduler(tiny, tmp_path):
    """A folder without a row that ships Turbo's scheduler would get 30 steps with guidance."""
    few = copytree(tiny, tmp_path / "finetune")
    shipped = EulerAncestralDiscreteScheduler(**SDXL_BETAS, timestep_spacing="trailing")
    shipped.save_pretrained(few / "scheduler")
    index = json.loads((few / "model_index.json").read_text())
    index["scheduler"][1] = "EulerAncestralDiscreteScheduler"
    (few / "model_index.json").write_text(json.dumps(index))
    with pytest.warns(UserWarning, match=r"ships EulerAncestral.*--system sdxl-turbo"):
        load(few)
    load(few, system=small("sdxl-turbo"))
    load(tiny)


#: What people's files are called -> the system that is proposed; None: nothing is.
CALLED = {
    "sd_xl_turbo_1.0_fp16": "sdxl-turbo",
    "DreamShaperXL_Turbo_v2": "sdxl-turbo",
    "juggernautXL_v9Rdphoto2Lightning": "sdxl-lightning-4step",
    "Hyper-SDXL-merge": "hyper-sd-8step-lora",
    "mine-LCM": "lcm-sdxl-lora",
    "anime_dmd2": "dmd2-4step",
    "sdxl-flash": "sdxl-flash",
    "hyperrealism_xl": None,
    "my-sdxl": None,
}


@pytest.mark.parametrize("name", CALLED)
def test_a_finetune_of_a_few_step_model_is_told_by_its_name(name):
    """A single file ships no scheduler: SDXL's own would be taken, 30 steps with guidance, in silence."""
    scheduler = EulerDiscreteScheduler(timestep_spacing="leading")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_unnamed(f"models/{name}.safetensors", scheduler)
        check_unnamed("models/x.safetensors", scheduler, [f"{name} by someone"])
    proposed = [str(each.message).partition("--system ")[2].partition(")")[0] for each in said]
    assert proposed == ([CALLED[name]] * 2 if CALLED[name] else [])
    assert CALLED[name] is None or CALLED[name] in SYSTEMS


def test_a_negative_prompt_without_guidance_warns(tiny):
    turbo = load(tiny, system=small("sdxl-turbo"))
    for idle in ({"negative_prompt": "a dog"}, {"guidance_rescale": 0.7}, {"micro": Micro(negative=Micro())}):
        with pytest.warns(UserWarning, match="no effect at guidance 0"):
            latents(turbo, **idle)


def test_strengths_that_leave_no_step_are_refused(refiner):
    model = load(refiner, system=small("sdxl-refiner"))
    start = Image.new("RGB", (64, 64))
    with pytest.raises(UnboxError, match=r"strength 0.3 of 2 step\(s\) is 0 of them; .* at least 0.5"):
        model.generate("a cat", image=start, steps=2)
    with pytest.raises(UnboxError, match="at most 1"):
        model.generate("a cat", image=start, steps=2, strength=1.5)


def test_step_counts(tiny):
    lightning = load(tiny, system=small("sdxl-lightning-4step"))
    with pytest.warns(UserWarning, match=r"trained for 4 step\(s\); 3 will look worse"):
        latents(lightning, steps=3)
    one = load(tiny, system=small("sdxl-distar-1step"))
    with pytest.raises(UnboxError, match=r"fixed timestep grid of 1 step\(s\), not 4"):
        latents(one, steps=4)
