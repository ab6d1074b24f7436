"""Checks of weights and sampling: what the pipeline computes with nothing of ours on it, and with it."""

import numpy as np
import torch

from unbox.capture import record
from unbox.edit import Block, Edit, Edits
from unbox.experiments.verify.check_outcome import CheckFinding, Picture, judged, not_possible
from unbox.experiments.verify.sigma_formula import formula_of
from unbox.experiments.verify.subject import Subject, difference
from unbox.models.schedulers import NativeEulerScheduler
from unbox.sae import SAE

#: Parameters of a UNet -> whose they are.
PARAMETERS = {2_567_463_684: "SDXL base", 2_259_526_660: "the SDXL refiner"}
#: Latents of the random SAE whose edits change nothing, and how many are active.
LATENTS, ACTIVE = 64, 4
#: No activation is larger.
UNREACHED = 1e30
#: What sigmas may differ by from the formula in float64, as a part of each.
SIGMA_TOLERANCE = 1e-4
#: Deviation of a picture's numbers in 0..1, below which it shows nothing.
BLANK = 0.01


def weights(subject: Subject) -> CheckFinding:
    """Every number of the weights is finite; their hashes, which say which weights they are."""
    parts, bad = dict(subject.model.networks()), []
    for name, part in parts.items():
        tensors = [tensor for tensor in part.parameters() if not tensor.is_meta]  # left out under offload
        bad += [name] * any(not bool(tensor.isfinite().all()) for tensor in tensors)
    counts = {name: sum(tensor.numel() for tensor in part.parameters()) for name, part in parts.items()}
    known = PARAMETERS.get(counts.get("unet", 0))
    size = f"; the UNet has the size of {known}'s" if known else ""
    return judged(
        not bad,
        f"{sum(counts.values()):,} numbers, all finite{size}",
        f"NaN or infinite numbers in the weights of {', '.join(bad)}: fetch them again",
        parameters=counts,
        sha256=subject.model.weight_hashes(),
    )


def repeats(subject: Subject) -> CheckFinding:
    """Twice the same picture, by the plain pipeline: what the next checks stand on."""
    apart = difference(*subject.bare)
    return judged(
        not apart,
        "two runs of the plain pipeline are equal to the bit",
        f"two runs of the plain pipeline differ by {apart:.2g} deviations: no run is repeated here",
        largest_difference=apart,
    )


def hooks(subject: Subject) -> CheckFinding:
    """The pipeline with our clock, seeds and recording on it draws what it draws without them."""
    model, plain = subject.model, subject.plain[0]
    with record(model, blocks=subject.blocks):
        recorded = subject.latents()
    found = {"recorded": difference(plain, recorded)}
    native = isinstance(model.pipeline.scheduler, NativeEulerScheduler)  # which starts from noise of ours
    if model.refiner is None and not native:
        if apart := difference(*subject.bare):
            return not_possible(f"the plain pipeline differs from itself by {apart:.2g} deviations", **found)
        found["generate"] = difference(subject.bare[0], plain)
    compared = "generate, recorded and not," if "generate" not in found else "plain, sampled and recorded"
    return judged(
        not any(found.values()),
        f"{compared} runs are equal to the bit ({', '.join(subject.blocks)} recorded)",
        f"runs differ, by deviations: {', '.join(f'{name} {value:.2g}' for name, value in found.items())}",
        **found,
    )


def identity(subject: Subject) -> CheckFinding:
    """Edits that change nothing leave every bit, those of features through an encoder on the device too."""
    if apart := difference(*subject.plain):
        return not_possible(f"a run differs from itself by {apart:.2g} deviations on this device")
    plain = subject.plain[0]
    unscaled = Edits(tuple(Block(block).scale(1.0) for block in subject.blocks))
    unreached = Edits(tuple(_unreached(block, subject.width(block)) for block in subject.blocks))
    found = {
        "updates times 1": difference(plain, subject.latents(unscaled)),
        "features over a bound that none reaches": difference(plain, subject.latents(unreached)),
    }
    return judged(
        not any(found.values()),
        f"equal to the bit with edits of {', '.join(subject.blocks)} that change nothing",
        f"edits that should change nothing do: {', '.join(f'{k} by {v:.2g}' for k, v in found.items())}",
        **found,
    )


def sigmas(subject: Subject) -> CheckFinding:
    """Timesteps and sigmas of the run against their formula in float64."""
    steps, model = subject.run["steps"], subject.model
    grid, config = model.system.grid(steps), dict(model.pipeline.scheduler.config)
    kind = type(model.pipeline.scheduler)
    laid = kind.from_config(config)
    laid.set_timesteps(timesteps=list(grid)) if grid else laid.set_timesteps(steps)
    expected = formula_of(kind.__name__, config, steps, grid)
    if expected is None:
        return not_possible(f"there is no formula here for {kind.__name__} with this configuration")
    timesteps = np.array(laid.timesteps.tolist())
    found = np.array(laid.sigmas.tolist()[:steps]) if hasattr(laid, "sigmas") else _sigmas(laid, timesteps)
    figures = {"timesteps": timesteps.tolist(), "sigmas": [round(float(s), 6) for s in found]}
    apart = float(np.abs(found / expected.sigmas - 1).max()) if len(found) == steps else float("inf")
    moved = float(np.abs(timesteps - expected.timesteps).max()) if len(timesteps) == steps else float("inf")
    right = moved <= 1e-3 and apart <= SIGMA_TOLERANCE
    return judged(
        right,
        f"{steps} steps, sigma {found[0]:.6g} to {found[-1]:.6g}, within {SIGMA_TOLERANCE:g} of the formula",
        f"timesteps differ by {moved:.3g}, sigmas by {apart:.3g} of each from the formula",
        **figures,
    )


def picture(subject: Subject) -> CheckFinding:
    """A picture is drawn: finite, and not blank, as where a VAE overflows in float16."""
    (image,) = subject.model.generate(
        subject.prompts[0], seed=subject.options.seed, output="np", **subject.run
    )
    spread = float(np.asarray(image, np.float64).std())
    finding = judged(
        spread > BLANK,
        f"{image.shape[1]} x {image.shape[0]} pixels, finite, of deviation {spread:.2f}",
        f"the picture is blank (deviation {spread:.4f}): try another --dtype",
        deviation=spread,
    )
    shown = Picture(subject.model.pipeline.image_processor.numpy_to_pil(image[None])[0], subject.prompts[0])
    return CheckFinding(finding.verdict, finding.reason, finding.figures, ((shown,),))


def _sigmas(scheduler: object, timesteps: np.ndarray) -> np.ndarray:
    """Of a scheduler that keeps no sigmas, from its own table of what is left of the image."""
    kept = scheduler.alphas_cumprod.double().numpy()[timesteps.astype(int)]  # type: ignore[attr-defined]
    return np.sqrt((1 - kept) / kept)


def _unreached(block: str, width: int) -> Edit:
    """A feature of a random SAE ablated where it is over a bound that it never is: encoded, and left."""
    draw = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(LATENTS, width, generator=draw), dim=1)
    zeros = torch.zeros(width), torch.zeros(LATENTS)
    sae = SAE(decoder.clone(), decoder, *zeros, k=ACTIVE, block=block, name=block)
    return sae.feature(0).scale(0.0, above=UNREACHED)
