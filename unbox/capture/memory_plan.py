"""What a run takes of a card and of memory, before it is tried: `unbox models NAME --plan`.

Weights by their numbers and type, what a UNet and a VAE hold at their peak
(`unbox.models.activation_memory`), SAEs, and the updates that wait to be written. Nothing is loaded: of a
folder the configurations and the heads of its files are read, of a system that is not here SDXL's own
architecture is laid out without memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch

from unbox.capture.keeper import IN_MEMORY
from unbox.capture.planned_run import PlannedRun
from unbox.errors import UnboxError
from unbox.memory_limit import size_text
from unbox.models.activation_memory import Config, unet_bytes, vae_bytes, vae_map, vae_pictures
from unbox.models.hub import bundled_folder, whole
from unbox.models.image_memory import PIXEL
from unbox.models.pipeline_files import paths_in, pipeline_files
from unbox.models.pipeline_kind import check_index
from unbox.models.system_table import REFINER
from unbox.models.systems import BUNDLED, PIPELINE_FILE, System
from unbox.models.weight_files import shapes_of
from unbox.site import Site, unet_sites
from unbox.text_files import read_json_object

#: Bytes of the interpreter and the libraries that a command imports (0.7 GB were measured).
LIBRARIES = 700_000_000
#: Bytes of a code's value in an SAE's encoder, which is computed in float32.
CODE = 4


@dataclass(frozen=True)
class Networks:
    """The networks of a system: parameters by component, and what the UNet and the VAE are like."""

    parameters: Mapping[str, int]
    unets: Mapping[str, Config]
    """`unet`, and in an ensemble `refiner`."""
    vae: Config
    largest_layer: int
    """Parameters of the largest tensor."""


def networks_of(system: System, place: Path | None = None) -> Networks:
    """The networks of a system: of the folder `place`, of the bundled one, else SDXL's own."""
    if place is None and system.base and system.base.startswith(BUNDLED):
        place = bundled_folder(system.base)
    if place is not None:
        return _of_folder(place)
    found = _laid_out("refiner" if system.base == REFINER else "base")
    parameters, unets, largest = dict(found.parameters), dict(found.unets), found.largest_layer
    if system.refiner:
        refiner = _laid_out("refiner")
        parameters["refiner"], unets["refiner"] = refiner.parameters["unet"], refiner.unets["unet"]
    if lora := sum(part.bytes // 2 for part in system.parts if part.kind == "lora"):
        parameters["lora"] = lora
    return Networks(parameters, unets, found.vae, largest)


@cache
def _laid_out(architecture: str) -> Networks:
    """SDXL's own architecture or its refiner's, without memory; two seconds each."""
    from unbox.models.real_size import ARCHITECTURES

    with torch.device("meta"):
        built: dict[str, Any] = {name: build() for name, build in ARCHITECTURES[architecture].parts.items()}
    tensors = {name: [p.numel() for p in part.parameters()] for name, part in built.items()}
    return Networks(
        {name: sum(each) for name, each in tensors.items()},
        {"unet": dict(built["unet"].config)},
        dict(built["vae"].config),
        max(max(each) for each in tensors.values()),
    )


def _of_folder(place: Path) -> Networks:
    """By the heads of a folder's files. Raises UnboxError for a folder that is no whole pipeline."""
    if not whole(place):
        raise UnboxError(f"{place} is no whole diffusers folder to plan for")
    index = read_json_object(place / PIPELINE_FILE)
    check_index(index, str(place))
    needed = pipeline_files(paths_in(place), index, str(place))
    sizes = {
        name: [prod(s) for file in found.files for s in _shapes(place / name / file)]
        for name, found in needed.weights.items()
    }
    configs = {name: read_json_object(place / name / "config.json") for name in ("unet", "vae")}
    return Networks(
        {name: sum(each) for name, each in sizes.items()},
        {"unet": configs["unet"]},
        configs["vae"],
        max(max(each) for each in sizes.values() if each),
    )


def _shapes(file: Path) -> Sequence[tuple[int, ...]]:
    return list(shapes_of(file).values()) if file.suffix == ".safetensors" else []


@dataclass(frozen=True)
class MemoryPlan:
    """What a run takes, in bytes."""

    title: str
    weights: Mapping[str, int]
    """Component -> its weights as they are computed with."""
    sampling: int
    """Tensors of the UNet's forward."""
    decoding: int
    """Tensors of the VAE's, of the pictures that are in work at one time."""
    workspace: int
    """What convolutions of the VAE take besides on a card."""
    editing: int
    """SAEs, and the pre-activations of an edit that reads one."""
    recording: int
    """Updates that are made, wait and are written, in memory."""
    pictures: int
    """Finished images of a batch, in memory."""
    pictures_in_work: int
    offload: str | None
    largest_layer: int
    """Bytes of the largest tensor of weights."""
    card: bool

    @property
    def phases(self) -> dict[str, int]:
        """Phase -> what is on the card (or in memory) in it, weights included."""
        total = sum(self.weights.values())
        unets = max(self.weights[name] for name in ("unet", "refiner") if name in self.weights)
        lora = self.weights.get("lora", 0)
        of = {
            None: (total, total),
            "model": (unets + lora, self.weights["vae"]),
            "sequential": (self.largest_layer, self.largest_layer),
        }[self.offload]
        return {
            "sampling": of[0] + self.sampling + self.editing,
            "decoding": of[1] + self.decoding + self.workspace + self.editing,
        }

    @property
    def on_card(self) -> int:
        """Bytes on the card at the peak; 0 without one."""
        return max(self.phases.values()) if self.card else 0

    @property
    def in_memory(self) -> int:
        """Bytes of memory at the peak."""
        held = LIBRARIES + self.recording + self.pictures
        return held + (sum(self.weights.values()) if self.card else max(self.phases.values()))

    def lines(self) -> list[str]:
        """The plan in words."""
        where = "on the card" if self.card else "in memory"
        each = ", ".join(f"{name} {size_text(size)}" for name, size in self.weights.items())
        lines = [
            self.title,
            f"  weights    {size_text(sum(self.weights.values()))}: {each}",
            f"  sampling   {size_text(self.sampling)} for the UNet's tensors",
            f"  decoding   {size_text(self.decoding)} for the VAE's tensors, "
            f"{self.pictures_in_work} at a time"
            + (f", {size_text(self.workspace)} for workspaces" if self.workspace else ""),
        ]
        if self.editing:
            lines.append(f"  editing    {size_text(self.editing)} for SAEs and what an edit reads of them")
        if self.recording:
            lines.append(f"  recording  {size_text(self.recording)} in memory for updates not yet written")
        lines += [f"  {name} takes {size_text(size)} {where}" for name, size in self.phases.items()]
        if self.card:
            lines.append(f"peak on the card: {size_text(self.on_card)}, and CUDA's own some 0.5 GB")
        note = "while weights are read" if self.card and self.offload is None else "throughout"
        lines.append(
            f"peak in memory: {size_text(self.in_memory)} ({note}; libraries {size_text(LIBRARIES)})"
        )
        return lines


def memory_plan(system: System, networks: Networks, options: PlannedRun) -> MemoryPlan:
    """What a run of a system's networks takes. Raises UnboxError for blocks that they do not have."""
    dtype = getattr(torch, options.dtype or ("float16" if options.card else "float32"))
    unet, vae = networks.unets["unet"], networks.vae
    scale = 2 ** (len(vae.get("block_out_channels", (1,) * 4)) - 1)
    side = options.size or system.size or int(unet["sample_size"]) * scale
    guidance = system.guidance if options.guidance is None else options.guidance
    steps = options.steps or system.steps
    branches = 2 if guidance > 1 else 1
    latent = side // scale
    lifted = 4 if vae.get("force_upcast", True) and dtype == torch.float16 else dtype.itemsize
    weights = {
        name: count * (lifted if name == "vae" else dtype.itemsize)
        for name, count in networks.parameters.items()
    }
    rows = options.batch * branches
    sampling = max(unet_bytes(each, rows, latent, latent, dtype.itemsize) for each in networks.unets.values())
    in_work, pixels = vae_pictures(vae, options.batch, side * side)
    sites = _sites(unet, options.blocks)
    recorded = sum(prod(site.grid(latent, latent)) * width for site, width in sites) * steps * branches
    kind = str(dtype).removeprefix("torch.")
    return MemoryPlan(
        title=f"{system.name}, {kind}: {options.batch} images of {side} x {side} pixels at a time, "
        f"guidance {guidance:g}, {steps} steps",
        weights=weights,
        sampling=sampling,
        decoding=vae_bytes(vae, options.batch, side, side, lifted),
        workspace=vae_map(vae, in_work * pixels, lifted) if options.card else 0,
        editing=_editing(sites, options, latent),
        recording=IN_MEMORY * options.batch * recorded * 2,
        pictures=options.batch * side * side * (PIXEL + 3),
        pictures_in_work=in_work,
        offload=options.offload,
        largest_layer=networks.largest_layer * dtype.itemsize,
        card=options.card,
    )


def _sites(unet: Config, blocks: Sequence[str]) -> list[tuple[Site, int]]:
    """Site and channels of each block. Raises UnboxError for one that the UNet does not have."""
    channels, layers = unet["block_out_channels"], int(unet.get("layers_per_block", 2))
    down = [layers * ("CrossAttn" in kind) for kind in unet["down_block_types"]]
    up = [(layers + 1) * ("CrossAttn" in kind) for kind in unet["up_block_types"]]
    there = {site.name: site for site in unet_sites(down, up)}
    if unknown := [name for name in blocks if name not in there]:
        raise UnboxError(f"this model has no block '{unknown[0]}'; it has {', '.join(there)}")
    return [(there[name], int(channels[there[name].halvings])) for name in blocks]


def _editing(sites: Sequence[tuple[Site, int]], options: PlannedRun, latent: int) -> int:
    """Bytes of an SAE for each block, and of the pre-activations of the largest block's images."""
    n = options.latents
    saes = sum(CODE * (2 * n * width + n + width) for _, width in sites)
    most = max((prod(site.grid(latent, latent)) for site, _ in sites), default=0)
    return saes + most * options.batch * n * CODE
