import torch

from unbox.experiments.faithfulness import faithfulness, faithfulness_table
from unbox.sae import SAE


def test_a_perfect_sae_changes_nothing_and_ablation_does(tiny):
    width = tiny.block("up.1.1").proj_out.out_features
    eye = torch.cat([torch.eye(width), -torch.eye(width)])
    perfect = SAE(
        eye, eye, torch.zeros(width), torch.zeros(2 * width), k=width, block="up.1.1", name="perfect"
    )
    empty = SAE(
        eye, eye, torch.zeros(width), torch.full((2 * width,), -1e6), k=1, block="up.1.1", name="empty"
    )
    found = faithfulness(tiny, {"perfect": perfect, "empty": empty}, ["a red dog", "a cat"], [0, 1], steps=2)
    assert found["perfect"]["rmse"].high < 2e-3
    assert found["empty"]["rmse"] == found["empty"]["ablated_rmse"]
    assert found["empty"]["rmse"].mean > 10 * found["perfect"]["rmse"].mean
    table = faithfulness_table(found)
    assert table.count("\n") == 4
    assert "| perfect |" in table
