# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first edit
#
# A picture model, one of its blocks taken apart into features, and one feature put back to change a picture. The
# model is small and bundled, so every cell runs in seconds on a laptop; `stabilityai/sdxl-turbo` takes the same calls.

# %%
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import unbox
from unbox.edits import random_control
from unbox.shapes import Scene, prompts

work = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The model
#
# `shapes-turbo` has SDXL's layout (two text encoders, a UNet with eleven transformer blocks, a VAE) and draws small
# scenes in a few steps.

# %%
model = unbox.load("shapes-turbo")
model.blocks

# %%
caption = "a large solid blue circle in the center on a gray background, bright light"
(before,) = model.generate(caption, seed=42)
before.resize((256, 256), Image.Resampling.NEAREST)

# %% [markdown]
# ## What a block adds
#
# A block's **update** is its output minus its input: one vector for every position. `record` works around any call
# of the pipeline.

# %%
with unbox.record(model, blocks=["up.0.1"]) as tape:
    model.generate(caption, seed=42)
tape["up.0.1"].shape  # sample, step, y, x, channel

# %% [markdown]
# ## A store
#
# Updates of many pictures go into an HDF5 store, with the prompts and what is known of them.

# %%
captions = prompts(300, seed=1)
captions[0]

# %%
store = unbox.collect(model, captions, work / "acts", blocks=["up.0.1"], steps=1, progress=False)
store["up.0.1"].shape  # sample, step, branch, y, x, channel

# %% [markdown]
# ## An autoencoder
#
# Each update is written as a sum of at most `k` of `latents` directions.

# %%
sae = unbox.fit(store["up.0.1"], k=8, latents=256, tokens=300_000, progress=False)
unbox.evaluate(sae, store["up.0.1"])

# %% [markdown]
# ## Which feature is red?
#
# The captions come with their scenes, so every feature can be asked how well it tells red objects from others: the
# area under its ROC curve over pictures, 0.5 is chance.

# %%
from unbox.ground_truth.factor_scores import factor_labels, feature_scores, image_codes, scenes_of

labels = factor_labels(scenes_of(store))
scores = feature_scores(image_codes(sae, store["up.0.1"]), labels)
best = scores.best(("colour", "red"), 5)
best  # (feature, AUROC)

# %% [markdown]
# ## Turn it on
#
# An edit is a value: what to add, where, at which steps. Here three features at some multiple of their mean active
# value, over the object alone.

# %%
scene = Scene.from_json(prompts(1, seed=1)[0].meta["scene"])
scene

# %%
y, x = np.mgrid[0:64, 0:64]
where = np.hypot(y - 32, x - 32) < 16
red = sae.feature(tuple(i for i, _ in best[:3])).add(8, where=where)
red.to_json()["feature"]

# %%
before, after = model.generate(caption, seed=42, edits=[None, red])


# %%
def strip(*images: Image.Image, side: int = 192) -> Image.Image:
    """Pictures beside each other, enlarged."""
    sheet = Image.new("RGB", (side * len(images), side))
    for i, image in enumerate(images):
        sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (side * i, 0))
    return sheet


strip(before, after)

# %% [markdown]
# ## Is it the features, or any push of that size?
#
# Random features of the same block, with the same norm, in the same place. Without them no picture proves anything.

# %%
controls = [random_control(red, draw) for draw in range(4)]
strip(after, *model.generate(caption, seed=42, edits=controls), side=128)

# %% [markdown]
# ## Edits are values
#
# They compose with `+`, are written as JSON, and no edit leaves every bit of the picture alone.

# %%
blue = sae.feature(scores.best(("colour", "blue"))[0][0])
both = red + blue.ablate(where=where)
same, nothing, changed = model.generate(caption, seed=42, edits=[None, blue.scale(1), both])
assert np.array_equal(np.asarray(before), np.asarray(same))
assert np.array_equal(np.asarray(before), np.asarray(nothing))
strip(before, after, changed)

# %% [markdown]
# ## The same path from the command line
#
# ```
# unbox collect --model shapes-turbo --prompts shapes --limit 300 --store acts --blocks up.0.1
# unbox train --store acts --out saes --k 8 --latents 256
# unbox generate --model shapes-turbo --prompt "a blue circle" --seed 42 --saes saes --edits red.json --out red.png
# ```
#
# `make demo` does it for the four default blocks and sixteen factor values, with intervals.
