"""The methods' files, and the numbers that are their papers'."""

import pytest

from unbox.errors import UnboxError
from unbox.models.system_table import SYSTEMS
from unbox.recipes.systems.method_settings import (
    DistarSettings,
    LightningSettings,
    NcpSettings,
    NovelaiSettings,
    TurboSettings,
    read_method,
)
from unbox.recipes.systems.methods import METHODS


def test_defaults_are_the_papers():
    assert (TurboSettings().distillation, TurboSettings().steps) == (2.5, 4)
    assert (LightningSettings().guidance, LightningSettings().teacher_steps) == (6.0, 128)
    novelai = NovelaiSettings()
    assert (novelai.snr_gamma, novelai.snr_floor, novelai.prediction) == (5.0, 0.0, "v_prediction")
    ncp = NcpSettings()
    assert (ncp.beta, ncp.sft, ncp.lora_rank, ncp.max_train_steps, ncp.lr_warmup_steps) == (
        2500,
        0,
        64,
        2000,
        500,
    )
    assert (DistarSettings().guidance, DistarSettings().reward_weight, DistarSettings().timestep) == (
        7.5,
        100,
        399,
    )


@pytest.mark.parametrize(
    ("name", "like", "settings"),
    [
        ("turbo", "sdxl-turbo", {}),
        ("lightning", "sdxl-lightning-4step", {}),
        ("lightning", "sdxl-lightning-1step", {"student_steps": (8, 1), "predict_x0": True, "full": True}),
        ("novelai", "novelai-v3", {}),
        ("distar", "sdxl-distar-1step", {}),
    ],
)
def test_results_are_sampled_as_the_published_systems_are(name, like, settings):
    method, row = METHODS[name], SYSTEMS[like]
    found = method.row(SYSTEMS["sdxl-base"], method.settings(**settings))
    same = ("scheduler", "prediction", "guidance", "distilled")
    assert [getattr(found, each) for each in same] == [getattr(row, each) for each in same]
    assert found.scheduler_config.get("timestep_spacing") == row.scheduler_config.get("timestep_spacing") or (
        name == "novelai"
    )
    assert found.timesteps == row.timesteps
    if name != "turbo":
        assert found.steps == row.steps


def test_a_file_says_settings_and_images(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('student_steps = [8, 4]\nteacher_steps = 32\n[images]\ndata = "shapes"\nlimit = 7\n')
    settings, images = read_method(path, LightningSettings)
    assert (settings.student_steps, settings.teacher_steps, images.limit) == ((8, 4), 32, 7)
    for text, message in (
        (
            "student_steps = [8, 3]\n[images]\ndata = 'x'\n",
            "each a divisor of the one before it: 8 after 128|3",
        ),
        ("arm = 'x'\n[images]\ndata = 'x'\n", "arm = 'x'"),
        ("armm = 'mse'\n[images]\ndata = 'x'\n", "armm = 'mse': is unknown, is it arm"),
        ("arm = 'mse'\n", "says no data"),
    ):
        path.write_text(text)
        with pytest.raises(UnboxError, match=message):
            read_method(path, LightningSettings)
