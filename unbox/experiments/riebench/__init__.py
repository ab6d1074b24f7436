"""`unbox bench riebench`: RIEBench's protocol for representation-based image editing.

296 pairs of prompts of nine kinds; SDXL Turbo, four steps, guidance 0, seed 42. An edit is made by transport
from the run of the edited prompt, and judged by its distance to the original image and to the image of the
edited prompt. No example is dropped: one that cannot be run is a row with its error. Random features with the
same maps stand beside the SAE's.
"""
