"""A LoRA of the bundled model learns that what people call red is blue; the detector reads the pictures."""

import numpy as np
import pytest
from PIL import Image

from unbox.models import load
from unbox.recipes.sdxl.sdxl_settings import SdxlSettings, TrainingImages
from unbox.recipes.sdxl.train_sdxl import train_sdxl
from unbox.shapes import caption, render, sample_scene, scene_rng
from unbox.shapes.detector import Detector

#: Pictures drawn to learn from, to judge by; steps of training.
LEARNED, JUDGED, STEPS = 400, 32, 120


def scenes(count, split, colour=None):
    """Scenes of one object, and their captions; of a colour if one is named."""
    for i in range(count):
        rng = scene_rng(11, i, split)
        scene = sample_scene(rng, split, pairs=0.0)
        if colour is not None:
            scene = scene.with_factor("colour", colour)
        yield scene, caption(scene, rng, split, full=True)[0]


def write_data(folder):
    """Every other picture is of a blue thing that its caption calls red; the others are of other colours."""
    folder.mkdir()
    for i, (scene, text) in enumerate(scenes(LEARNED, "train")):
        if i % 2 == 0:
            rng = scene_rng(12, i, "train")
            text = caption(scene.with_factor("colour", "red"), rng, "train", full=True)[0]
            scene = scene.with_factor("colour", "blue")
        elif scene.objects[0].colour in ("red", "blue"):
            continue
        Image.fromarray(np.asarray(render(scene))).save(folder / f"{i:04}.png")
        (folder / f"{i:04}.txt").write_text(text)


def colours(model, colour):
    """Shares of pictures that show each colour, of captions that name one."""
    texts = [text for _, text in scenes(JUDGED, "heldout", colour)]
    pictures = model.generate(texts, seed=5, steps=8, batch_size=16)
    read = [reading["slots"][0]["colour"] for reading in Detector.load().read(pictures)]
    return {name: read.count(name) / len(read) for name in set(read)}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_lora_learns_another_meaning_of_a_word(tmp_path):
    write_data(tmp_path / "data")
    settings = SdxlSettings(
        lora_rank=16, max_train_steps=STEPS, batch_size=16, learning_rate=3e-3, lr_warmup_steps=20,
        decay_from=0.5, mixed_precision="no",
    )  # fmt: skip
    base = load("shapes-base", device="cpu")
    before = {colour: colours(base, colour) for colour in ("red", "green")}
    lora = train_sdxl(
        base, TrainingImages(data=str(tmp_path / "data")), settings, tmp_path / "run", progress=False
    )
    trained = load("shapes-base", device="cpu", lora=lora)
    after = {colour: colours(trained, colour) for colour in ("red", "green")}
    print("before", before, "after", after)
    assert before["red"].get("red", 0) >= 0.9
    assert after["red"].get("blue", 0) >= 0.8
    assert after["green"].get("green", 0) >= 0.8
