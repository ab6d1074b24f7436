"""A model's identity: what decides pictures changes it; words, places and libraries do not."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model_state_dict

from tests.models.tiny import tiny_unet
from unbox.model_identity import model_identity
from unbox.models import SYSTEMS, load
from unbox.models.hub import quiet

#: A change of a recorded fingerprint that changes pictures.
CHANGES = {
    "weights of the UNet": lambda f: f["weights"].update(unet="0" * 64),
    "weights of the VAE": lambda f: f["weights"].update(vae="0" * 64),
    "scheduler's class": lambda f: f["scheduler"].update({"class": "LCMScheduler"}),
    "scheduler's spacing": lambda f: f["scheduler"].update(timestep_spacing="linspace"),
    "a LoRA": lambda f: f["adapters"].append("lora"),
    "its strength": lambda f: f.update(strengths={"lora": 0.5}),
    "steps": lambda f: f["system"].update(steps=7),
    "guidance": lambda f: f["system"].update(guidance=7.5),
    "timesteps": lambda f: f["system"].update(timesteps={"1": [399]}),
    "size": lambda f: f["system"].update(size=128),
    "prediction": lambda f: f["system"].update(prediction="sample"),
}
#: One that does not.
SAME = {
    "title": lambda f: f["system"].update(title="Another", name="another", paper="x", licence="y"),
    "place": lambda f: f.update(source="/another/folder"),
    "libraries": lambda f: f["libraries"].update(torch="9.9.9"),
    "what was downloaded": lambda f: f["system"].update(base="a/b", bytes=1, verified="by me"),
}


@pytest.fixture(scope="module")
def fingerprint(tiny):
    return load(tiny, system=SYSTEMS["sdxl-turbo"]).fingerprint


@pytest.mark.parametrize("part", CHANGES)
def test_each_part_changes_it(fingerprint, part):
    changed = deepcopy(json.loads(json.dumps(fingerprint)))
    CHANGES[part](changed)
    assert model_identity(changed) != model_identity(fingerprint)


@pytest.mark.parametrize("part", SAME)
def test_what_does_not_matter_leaves_it(fingerprint, part):
    changed = deepcopy(json.loads(json.dumps(fingerprint)))
    SAME[part](changed)
    assert model_identity(changed) == model_identity(fingerprint)


def test_it_is_that_of_what_was_recorded(tiny):
    """Numbers of steps are keys of the grid: as JSON they are texts, and sort otherwise."""
    row = replace(SYSTEMS["sdxl-turbo"], timesteps={n: tuple(range(900, 900 - n, -1)) for n in (9, 10)})
    model = load(tiny, system=row)
    assert model_identity(json.loads(json.dumps(model.fingerprint))) == model.identity


def test_it_is_the_same_from_another_folder_and_another_file_type(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "moved")
    with quiet():
        half = StableDiffusionXLPipeline.from_pretrained(tiny, dtype=torch.float16)
        half.save_pretrained(tmp_path / "half")
        half.to(torch.float32).save_pretrained(tmp_path / "whole")
    row = SYSTEMS["sdxl-turbo"]
    assert load(tmp_path / "moved", system=row).identity == load(tiny, system=row).identity
    assert load(tmp_path / "half", system=row).identity == load(tmp_path / "whole", system=row).identity
    assert load(tmp_path / "half", "float16", system=row).identity != load(tiny, system=row).identity


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    unet = tiny_unet()
    unet.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "to_v"]))
    folder = tmp_path_factory.mktemp("lora")
    StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
    return folder / "pytorch_lora_weights.safetensors"


def test_a_lora_counts_with_its_strength_and_whether_it_is_on(tiny, lora):
    row = SYSTEMS["sdxl-turbo"]
    plain, model = load(tiny, system=row), load(tiny, system=row, lora=lora)
    identity = model.identity
    assert identity != plain.identity
    assert "strengths" not in model.fingerprint  # as versions before recorded it
    found = {identity}
    for strength in (0.5, 0.25, {"unet": {"up": 0.5, "down": 1.0, "mid": 1.0}}):
        model.pipeline.set_adapters("lora", strength)
        found.add(model.identity)
    with model.unadapted():
        assert model.fingerprint["strengths"] == {"lora": 0.0}
        found.add(model.identity)
    assert len(found) == 5
    model.pipeline.set_adapters("lora", 1.0)
    assert model.identity == identity
