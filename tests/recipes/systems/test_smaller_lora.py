"""A LoRA at a lower rank is the nearest one, and is loaded."""

import numpy as np
import torch

from unbox.recipes.systems.smaller_lora import lowered


def test_the_product_is_the_nearest_of_its_rank():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(6, 9)), rng.normal(size=(5, 6))
    given = {"x.lora_A.weight": torch.tensor(first), "x.lora_B.weight": torch.tensor(second)}
    product, values = second @ first, np.linalg.svd(second @ first, compute_uv=False)
    for rank in (1, 3, 5):
        found = lowered(given, rank)
        assert found["x.lora_A.weight"].shape == (rank, 9)
        near = (found["x.lora_B.weight"] @ found["x.lora_A.weight"]).numpy()
        assert np.isclose(np.square(near - product).sum(), np.square(values[rank:]).sum())
