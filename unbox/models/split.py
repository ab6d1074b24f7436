"""Where an ensemble hands the image over: the base model runs the steps before, its refiner those after."""

from unbox.models.model import Model


def first_refined(model: Model, steps: int) -> int:
    """The first of a run's steps that the refiner runs; `steps` without a refiner.

    The rule of diffusers: timesteps below the share `1 - split` of those that the model is trained on.
    """
    split = model.system.split
    if model.refiner is None or split is None:
        return steps
    scheduler = type(model.pipeline.scheduler).from_config(model.pipeline.scheduler.config)
    if grid := model.system.grid(steps):
        scheduler.set_timesteps(timesteps=list(grid))
    else:
        scheduler.set_timesteps(steps)
    trained = scheduler.config["num_train_timesteps"]
    last = round(trained - split * trained)
    return len({t for t in scheduler.timesteps.tolist() if t >= last})
