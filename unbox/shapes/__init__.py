"""The Shapes world: procedural scenes whose every factor and mask is known, their captions and detectors."""

from unbox.shapes.captions import caption, prompts
from unbox.shapes.factors import FACTORS, OBJECT_FACTORS, SCENE_FACTORS
from unbox.shapes.render import coverage, masks, render
from unbox.shapes.scene import Object, Scene, Split, sample_scene, sample_scenes, scene_rng
