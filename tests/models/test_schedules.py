"""The sigma and timestep tables of every row, against published or independently derived ones."""

import math

import numpy as np
import pytest

from tests.models.reference import (
    alphas_bar,
    consistency_timesteps,
    leading,
    sigmas_of,
    singlestep_timesteps,
    trailing,
)
from unbox.errors import UnboxError
from unbox.models import SYSTEMS
from unbox.models.schedulers import (
    V3_SIGMA_MAX,
    NativeEulerScheduler,
    TurboGridScheduler,
    scheduler_class,
    sigma_max_for,
)

#: As SDXL and every checkpoint made from it ship.
SHIPPED = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
SIGMAS = sigmas_of(alphas_bar())


def scheduler_of(name, steps=None):
    """The row's scheduler, laid as its pipeline lays it."""
    row = SYSTEMS[name]
    changes = {"prediction_type": row.prediction, **row.scheduler_config}
    scheduler = scheduler_class(row.scheduler).from_config(SHIPPED, **changes)
    steps = steps or row.steps
    grid = (row.timesteps or {}).get(steps)
    scheduler.set_timesteps(**({"timesteps": list(grid)} if grid else {"num_inference_steps": steps}))
    return scheduler


def grid_of(row, steps):
    """What the row's timesteps must be, by the formula of its source."""
    if row.timesteps:
        return row.timesteps[steps]
    if row.scheduler == "NativeEulerScheduler":
        return np.linspace(999, 0, steps)
    if row.name == "sdxl-turbo-stability":
        return 999 - 100 * np.arange(steps)
    if row.scheduler in ("LCMScheduler", "TCDScheduler"):
        return consistency_timesteps(steps)
    if row.scheduler == "DPMSolverSinglestepScheduler":
        return singlestep_timesteps(steps)
    leads = row.scheduler_config["timestep_spacing"] == "leading"
    return leading(steps) if leads else trailing(steps)


@pytest.mark.parametrize(
    ("name", "steps"), [(row.name, n) for row in SYSTEMS.values() for n in row.step_counts or (row.steps,)]
)
def test_every_row_has_the_tables_of_its_source(name, steps, caplog):
    scheduler = scheduler_of(name, steps)
    expected = np.asarray(grid_of(SYSTEMS[name], steps), dtype=float)
    np.testing.assert_allclose(scheduler.timesteps.numpy(), expected, atol=1e-4)
    if hasattr(scheduler, "sigmas"):
        table = (
            sigmas_of(alphas_bar(V3_SIGMA_MAX))
            if SYSTEMS[name].scheduler == "NativeEulerScheduler"
            else SIGMAS
        )
        # float32 cumulative products differ from float64 ones by up to a few 1e-6
        log = np.exp(np.interp(expected, np.arange(1000), np.log(table)))
        np.testing.assert_allclose(scheduler.sigmas.numpy(), np.append(log, 0), rtol=2e-5)


@pytest.mark.parametrize(
    ("name", "steps", "sigmas"),
    [
        ("sdxl-lightning-8step", 8, [14.6146, 7.2974, 4.0817, 2.4925, 1.6129, 1.0690, 0.6932, 0.3977, 0]),
        ("sdxl-turbo", 4, [14.6146, 4.0817, 1.6129, 0.6932, 0]),
        ("sdxl-turbo", 1, [14.614647, 0]),
        ("sdxl-turbo-stability", 1, [14.614647, 0]),
        ("sdxl-lightning-1step", 1, [14.614647, 0]),
    ],
)
def test_published_sigmas(name, steps, sigmas):
    np.testing.assert_allclose(
        scheduler_of(name, steps).sigmas.numpy(), sigmas, atol=6e-5
    )  # four digits are published


@pytest.mark.parametrize(
    ("name", "steps", "timesteps"),
    [
        ("dmd2-4step-lora", 4, [999, 749, 499, 249]),
        ("hyper-sd-1step", 1, [800]),
        ("hyper-sd-1step-lora", 1, [999]),
        ("hyper-sd-1step-lora", 8, [999, 879, 759, 639, 499, 379, 259, 139]),
        ("hyper-sd-2step-lora", 2, [999, 499]),
        ("hyper-sd-4step-lora", 4, [999, 749, 499, 249]),
        ("hyper-sd-8step-lora", 8, [999, 874, 749, 624, 499, 374, 249, 124]),
        ("lcm-sdxl", 4, [999, 759, 499, 259]),
        ("lcm-sdxl-lora", 2, [999, 499]),
        ("tcd-sdxl-lora", 4, [999, 759, 499, 259]),
        ("pcm-sdxl-2step-lora", 2, [999, 499]),
        ("pcm-sdxl-16step-cfg-lora", 16, [
            *(999, 939, 879, 819, 759, 699, 639, 579), *(499, 439, 379, 319, 259, 199, 139, 79),
        ]),
        ("sdxl-flash", 7, [999, 856, 714, 571, 428, 285, 143]),
    ],
)  # fmt: skip
def test_timesteps_written_out(name, steps, timesteps):
    assert scheduler_of(name, steps).timesteps.tolist() == timesteps


#: As their authors' pages say, docs/systems.md: steps, guidance, eta.
SETTINGS = {
    "dmd2-4step-lora": (4, 0, None),
    "hyper-sd-1step": (1, 0, None),
    "hyper-sd-1step-lora": (1, 0, 1),
    "hyper-sd-8step-lora": (8, 0, None),
    "lcm-sdxl": (4, 8, None),
    "lcm-sdxl-lora": (4, 0, None),
    "tcd-sdxl-lora": (4, 0, 0.3),
    "pcm-sdxl-16step-lora": (16, 0, 0),
    "pcm-sdxl-8step-cfg-lora": (8, 7.5, 0),
    "sdxl-flash": (7, 3, None),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_of_the_authors_pages(name):
    row = SYSTEMS[name]
    assert (row.steps, row.guidance, row.eta) == SETTINGS[name]
    if row.scheduler == "DDIMScheduler":
        config = scheduler_of(name).config
        assert not config.clip_sample
        assert not config.set_alpha_to_one


def test_turbo_grids_agree_at_one_step_only():
    trailing_grid = [scheduler_of("sdxl-turbo", n).timesteps.tolist() for n in (1, 4)]
    demo_grid = [scheduler_of("sdxl-turbo-stability", n).timesteps.tolist() for n in (1, 4)]
    assert trailing_grid == [[999], [999, 749, 499, 249]]
    assert demo_grid == [[999], [999, 899, 799, 699]]
    with pytest.raises(UnboxError, match="1 to 4 steps, not 5"):
        TurboGridScheduler().set_timesteps(5)


def test_v3_table_is_k_diffusions():
    sigmas = scheduler_of("novelai-v3").sigmas.numpy()
    np.testing.assert_allclose(sigmas[:6], [20000, 56.178, 25.900, 15.960, 11.094, 8.247], rtol=5e-5)
    np.testing.assert_allclose(sigmas[-3:-1], [0.1976, 0.0292], rtol=2e-3)
    assert len(sigmas) == 29
    assert sigmas[-1] == 0
    assert float(scheduler_of("novelai-v3").init_noise_sigma) == pytest.approx(20000)


def test_native_schedule_of_an_epsilon_model_ends_at_its_own_sigma():
    scheduler = NativeEulerScheduler(prediction_type="epsilon", rescale_betas_zero_snr=False)
    scheduler.set_sigma_max(20000)  # has a meaning for zero terminal SNR only
    scheduler.set_timesteps(28)
    assert float(scheduler.sigmas[0]) == pytest.approx(14.614647, rel=1e-5)
    with pytest.raises(UnboxError, match="laid by a number of steps"):
        scheduler.set_timesteps(timesteps=[999, 0])


def test_native_schedule_survives_its_configuration():
    scheduler = scheduler_of("novelai-v3")
    again = NativeEulerScheduler.from_config(scheduler.config)
    again.set_timesteps(28)
    assert again.sigmas.tolist() == scheduler.sigmas.tolist()


def test_twice_the_side_is_twice_sigma_max():
    assert sigma_max_for(1024, 1024, 14.6) == 14.6
    assert sigma_max_for(2048, 2048, 14.6) == pytest.approx(29.2)
    assert sigma_max_for(1024, 4096, 14.6) == pytest.approx(29.2)
    assert sigma_max_for(512, 512, 14.6) == 14.6
    scheduler = scheduler_of("novelai-v3")
    scheduler.set_sigma_max(sigma_max_for(2048, 2048, V3_SIGMA_MAX))
    scheduler.set_timesteps(28)
    assert float(scheduler.sigmas[0]) == pytest.approx(40000, rel=1e-5)


def test_the_constants_of_the_schedule():
    assert SIGMAS[0] == pytest.approx(0.0291675, rel=2e-5)  # published from float32
    assert SIGMAS[999] == pytest.approx(14.614647, rel=1e-6)
    assert alphas_bar()[999] == pytest.approx(0.0046601, rel=1e-4)
    assert math.sqrt(1 - alphas_bar()[399]) == pytest.approx(0.757571, rel=1e-5)
    assert math.sqrt(alphas_bar()[399]) == pytest.approx(0.652753, rel=1e-5)


def test_unknown_scheduler():
    with pytest.raises(UnboxError, match="no scheduler 'Eulr'"):
        scheduler_class("Eulr")
