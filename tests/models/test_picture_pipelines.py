"""Runs that start from pictures: the bits of diffusers' own pipelines, recorded and edited by the scheduler's
steps."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image

import unbox
from unbox.edit import Direction
from unbox.errors import UnboxError
from unbox.models import Micro, load, load_controlnet

#: Widths of the layers that halve a control picture: twice, as the bundled model's VAE halves pictures.
SCALE = (16, 32, 32)
SIZE, SEED, PROMPT = 128, 5, "a large red circle on a blue background"
CALL = {"steps": 4, "guidance": 2.0, "output": "np", "seed": SEED}
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8))
EDGES = Image.fromarray(np.random.default_rng(1).integers(0, 255, (SIZE, SIZE, 3), np.uint8))
MASK = Image.fromarray(np.kron([[255, 0], [0, 0]], np.ones((64, 64))).astype(np.uint8))

IMAGE, MASKED, CONTROL = (
    {"image": PICTURE, "strength": 0.5},
    {"mask": MASK},
    {"control": EDGES, "control_strength": 0.7},
)
KINDS = {
    "StableDiffusionXLImg2ImgPipeline": IMAGE,
    "StableDiffusionXLInpaintPipeline": IMAGE | MASKED,
    "StableDiffusionXLControlNetPipeline": CONTROL,
    "StableDiffusionXLControlNetImg2ImgPipeline": IMAGE | CONTROL,
    "StableDiffusionXLControlNetInpaintPipeline": IMAGE | MASKED | CONTROL,
}


@pytest.fixture(scope="module")
def controlnet(tmp_path_factory):
    """A ControlNet of the bundled model's UNet whose layers, zero as they begin, do something."""
    torch.manual_seed(3)
    made = ControlNetModel.from_unet(load("shapes-base").unet, conditioning_embedding_out_channels=SCALE)
    with torch.no_grad():
        for name, tensor in made.named_parameters():
            if "controlnet_" in name:
                tensor.add_(0.02 * torch.randn_like(tensor))
    folder = tmp_path_factory.mktemp("controlnet")
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(controlnet):
    model = load("shapes-base")
    load_controlnet(model, controlnet)
    return model


def plain(model, kind, pictures):
    """What diffusers' pipeline makes of the same parts, and what mid.0 adds in it, call by call."""
    own = getattr(diffusers, kind)
    parts = {**model.pipeline.components, **({"controlnet": model.controlnet} if "Control" in kind else {})}
    pipeline = own(**parts, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    given = {"prompt": [PROMPT], "num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "np"}
    given["generator"] = [torch.Generator().manual_seed(SEED)]
    if "image" in pictures:
        given |= {"image": [PICTURE], "strength": 0.5}
    if "mask" in pictures:
        given["mask_image"] = [MASK]
    if "control" in pictures:
        place = "control_image" if "image" in pictures else "image"
        given |= {place: [EDGES], "controlnet_conditioning_scale": 0.7}
    if kind != "StableDiffusionXLImg2ImgPipeline":
        given |= {"height": SIZE, "width": SIZE}
    updates = []
    block = model.block("mid.0")
    hook = block.register_forward_hook(lambda _, args, output: updates.append(output[0] - args[0]))
    try:
        return pipeline(**given).images[0], updates
    finally:
        hook.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_diffusers_own_and_recorded_by_its_steps(model, kind):
    pictures = KINDS[kind]
    expected, updates = plain(model, kind, pictures)
    (bare,) = model.generate(PROMPT, **CALL, **pictures)
    assert np.array_equal(bare, expected)
    with unbox.record(model, ["mid.0"]) as tape:
        (recorded,) = model.generate(PROMPT, **CALL, **pictures)
    assert np.array_equal(recorded, expected)
    steps = (2, 3) if "image" in pictures else (0, 1, 2, 3)
    assert tape.steps == steps
    for branch, row in (("uncond", 0), ("cond", 1)):
        own = tape.read("mid.0", "update", branch)[0]
        for place, update in enumerate(updates):
            assert torch.equal(own[place], update[row].permute(1, 2, 0))
    (none,) = model.generate(PROMPT, **CALL)
    assert not np.array_equal(none, expected)


def test_edits_are_of_the_schedulers_steps(model):
    """Of four steps a strength of a half runs 2 and 3."""
    push = Direction("mid.0", np.ones(model.block("mid.0").proj_out.out_features, np.float32))
    (bare,) = model.generate(PROMPT, **CALL, **IMAGE)
    for steps, changes in ((range(2), False), (range(2, 3), True), (range(3, 4), True)):
        edit = push.add(5.0, steps=steps)
        (edited,) = model.generate(PROMPT, edits=edit, **CALL, **IMAGE)
        assert np.array_equal(edited, bare) is not changes


def test_text_encoders_are_recorded_in_a_run_from_a_picture(model):
    site = next(name for name in model.all_sites if name.startswith("text."))
    with unbox.record(model, [site, "mid.0"]) as tape:
        model.generate(PROMPT, **CALL, **IMAGE)
    with unbox.record(model, [site]) as from_noise:
        model.generate(PROMPT, **CALL)
    assert torch.equal(tape[site], from_noise[site])


def test_images_of_a_batch_have_their_own_pictures(model):
    other = EDGES.rotate(90)
    two = model.generate(
        PROMPT, **{**CALL, "output": "latent"}, image=[PICTURE, other], mask=[MASK, MASK.rotate(90)]
    )
    for image, mask, latents in zip((PICTURE, other), (MASK, MASK.rotate(90)), two, strict=True):
        (one,) = model.generate(PROMPT, **{**CALL, "output": "latent"}, image=image, mask=mask)
        assert float((one - latents).abs().max() / one.std()) < 3e-5


def test_what_the_mask_keeps_is_the_image(model):
    """Outside of the mask the latents are the starting image's."""
    (drawn,) = model.generate(PROMPT, **{**CALL, "output": "latent"}, image=PICTURE, mask=MASK)
    (other,) = model.generate(
        "a small green square", **{**CALL, "output": "latent", "guidance": 0.0}, image=PICTURE, mask=MASK
    )
    half = drawn.shape[-1] // 2
    assert torch.equal(drawn[:, half:, half:], other[:, half:, half:])
    assert not torch.equal(drawn[:, :half, :half], other[:, :half, :half])


def test_masks_of_every_kind_are_one(model):
    levels = np.asarray(MASK, np.float32) / 255
    call = {**CALL, "output": "latent", "image": PICTURE}
    (expected,) = model.generate(PROMPT, mask=MASK, **call)
    for mask in (levels, torch.tensor(levels), MASK.resize((256, 256), Image.Resampling.NEAREST)):
        assert torch.equal(model.generate(PROMPT, mask=mask, **call)[0], expected)


def test_a_model_with_a_controlnet_is_another_model(model):
    alone = load("shapes-base")
    assert alone.identity != model.identity
    assert "controlnet" in model.weight_hashes()
    assert np.array_equal(alone.generate(PROMPT, **CALL)[0], model.generate(PROMPT, **CALL)[0])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"mask": MASK}, "there is no image"),
        ({**IMAGE, "strength": 0.1}, r"strength 0.1 of 4 step\(s\) is 0 of them"),
        ({**IMAGE, "mask": np.zeros((8, 8))}, r"a mask is a picture or an array \(height, width\)"),
        (
            {"control": np.zeros((8, 8, 3))},
            "a control picture of 8 x 8 pixels is given for images of 128 x 128",
        ),
        ({**CONTROL, "guidance_rescale": 0.5}, "has no place for guidance_rescale"),
        ({**CONTROL, "micro": Micro(crop=(1, 1))}, "does not reach a ControlNet"),
        (
            {"image": [PICTURE, PICTURE], "control": [EDGES, EDGES], "control_strength": 11},
            "control_strength = 11",
        ),
    ],
)
def test_pictures_without_use_are_refused(model, given, told):
    with pytest.raises(UnboxError, match=told):
        model.generate(PROMPT, **CALL, **given)


def test_a_controlnet_is_refused_by_what_it_lacks(model, tmp_path):
    with pytest.raises(UnboxError, match=r"no ControlNet: it has no config\.json"):
        load_controlnet(model, tmp_path)
    with pytest.raises(UnboxError, match=r"there is no ControlNet at \./nowhere"):
        load_controlnet(model, "./nowhere")
    with pytest.raises(UnboxError, match="no weights: looked for"):
        load_controlnet(model, "a/b", download=False)
    with pytest.raises(UnboxError, match=r"control= \(--control\) needs a ControlNet"):
        load("shapes-base").generate(PROMPT, control=EDGES)


def test_a_controlnet_of_another_unet_is_refused(model, tiny, tmp_path):
    ControlNetModel.from_unet(load(tiny).unet).save_pretrained(tmp_path / "unet")
    with pytest.raises(UnboxError, match="is for another UNet: its"):
        load_controlnet(model, tmp_path / "unet")
    ControlNetModel.from_unet(model.unet).save_pretrained(tmp_path / "vae")
    with pytest.raises(UnboxError, match="takes pictures of 8 pixels to a latent, this model's VAE has 4"):
        load_controlnet(model, tmp_path / "vae")
