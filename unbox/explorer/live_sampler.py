"""One picture again and again under changing edits: what no edit changes is computed once.

Of a recipe the prompt's embeddings and the noise are kept. In a run of one step the UNet is given the same
each time, so that its stages before the first that is edited give the same too: they are computed once, and
handed on. On a GPU the rest of the UNet and the decoder are recorded as CUDA graphs, which edits that only
add go on using whatever their strengths. Pictures are those of `Model.generate`, to the bit.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from unbox.edit import Edits
from unbox.edits import EditHook
from unbox.edits.constant_edits import ConstantEdits
from unbox.errors import FieldError, UnboxError
from unbox.explorer.image_recipe import Recipe
from unbox.models import Model
from unbox.models.captured_forward import CapturedForward
from unbox.models.clock import Clock, clock
from unbox.models.hooks import Hook, as_hook
from unbox.models.offload_lookup import looked_up_once, offload_hooks
from unbox.models.schedulers import NativeEulerScheduler
from unbox.models.seeds import generator
from unbox.site import block_path

#: Frames that the rate is a mean over, and seconds after which a pause begins it anew.
WINDOW, PAUSE = 12, 1.0


@dataclass(frozen=True)
class LiveFrame:
    """A picture, and how fast they come."""

    image: Image.Image
    seconds: float
    """That it took."""
    rate: float
    """Frames a second: as they came, or as they could where this is the first after a pause."""


class LiveSampler:
    """A recipe's prompt, seed, steps and size on a model, drawn with any edits. Not for several threads."""

    def __init__(self, model: Model, recipe: Recipe, hooks: Sequence[Hook] = ()) -> None:
        """`hooks` are attached to every run. Raises UnboxError for what is not drawn so: a photo, guidance's
        negative prompt, a refiner."""
        if recipe.photo or recipe.negative_prompt or recipe.guidance > 1:
            raise FieldError(
                "live", "picture", recipe.system, "should have no guidance, and start from noise"
            )
        if model.refiner is not None or isinstance(model.pipeline.scheduler, NativeEulerScheduler):
            raise UnboxError(f"{recipe.system} is not drawn live: it has a refiner, or a schedule of its own")
        self.model, self.recipe, self.hooks = model, recipe.plain, tuple(hooks)
        pipeline = model.pipeline
        with clock(model, "reading a live prompt"), torch.no_grad():
            text, _, pooled, _ = pipeline.encode_prompt(
                recipe.prompt, device=model.device, do_classifier_free_guidance=False
            )
        self._given = {"prompt_embeds": text, "pooled_prompt_embeds": pooled}
        self._noise, self._after_noise = self._drawn_noise(text.dtype)
        self._kept: dict[str, object] = {}
        self._edits = ConstantEdits()
        self._unet = CapturedForward(pipeline.unet)
        self._decoder = CapturedForward(decoder) if (decoder := _decoder_of(pipeline.vae)) else None
        self._offload = offload_hooks(pipeline)
        self._ended: deque[float] = deque(maxlen=WINDOW)

    def _drawn_noise(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The pipeline's noise of the recipe's seed, and the generator's state after it."""
        draw, scale = generator(self.recipe.seed), self.model.pipeline.vae_scale_factor
        channels = self.model.pipeline.unet.config.in_channels
        shape = (1, channels, self.recipe.height // scale, self.recipe.width // scale)
        return randn_tensor(shape, draw, self.model.device, dtype), draw.get_state()

    def draw(self, edits: Edits | EditHook | None) -> LiveFrame:
        """The picture with edits, whose SAEs are bound."""
        began, recipe, pipeline = time.monotonic(), self.recipe, self.model.pipeline
        rest = generator(recipe.seed)
        rest.set_state(self._after_noise)
        fixed = self.model.system.grid(recipe.steps)
        config = getattr(pipeline, "_progress_bar_config", {})
        with ExitStack() as stack:
            stack.enter_context(looked_up_once(pipeline, self._offload))
            now = stack.enter_context(clock(self.model, "a live frame"))
            for hook in self.hooks:
                stack.enter_context(hook.attach(self.model, None))
            stack.enter_context(self._edited(edits, now))
            stack.enter_context(now.rows(samples=[0]))
            pipeline.set_progress_bar_config(**{**config, "disable": True})
            try:
                (decoded,) = pipeline(
                    **self._given, latents=self._noise, generator=rest, num_inference_steps=recipe.steps,
                    guidance_scale=recipe.guidance, height=recipe.height, width=recipe.width,
                    output_type="pt",
                    **({"timesteps": list(fixed)} if fixed else {}),
                    **({} if self.model.system.eta is None else {"eta": self.model.system.eta}),
                ).images  # fmt: skip
            finally:
                pipeline.set_progress_bar_config(**config)
        return self._frame(picture_of(decoded), began)

    @contextmanager
    def _edited(self, edits: Edits | EditHook | None, now: Clock) -> Iterator[None]:
        """Inside, the model has the edits, and computes what they change."""
        constant = ConstantEdits.of(self.model, edits) if self.recipe.steps == 1 else None
        with ExitStack() as stack:
            if constant is None and edits is not None:
                stack.enter_context(as_hook(edits).attach(self.model, None))
            if self.recipe.steps == 1:
                stack.enter_context(reused(self.model, self._kept, edited_blocks(edits)))
            if constant is not None:
                stack.enter_context(self._edits.attached(self.model, constant, now))
                stack.enter_context(self._unet.on(tuple(constant)))
            if self._decoder is not None:
                stack.enter_context(self._decoder.on())
            yield

    def _frame(self, image: Image.Image, began: float) -> LiveFrame:
        ended = time.monotonic()
        if self._ended and began - self._ended[-1] > PAUSE:
            self._ended.clear()
        self._ended.append(ended)
        first, count = self._ended[0], len(self._ended) - 1
        rate = count / (ended - first) if count else 1 / max(ended - began, 1e-6)
        return LiveFrame(image, ended - began, rate)


def picture_of(decoded: torch.Tensor) -> Image.Image:
    """A picture, (3, y, x) of 0 to 1, as diffusers' image processor rounds it, but where it lies: a third of
    the bytes leave a GPU, and the host has nothing to count."""
    levels = (decoded.float() * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.fromarray(levels.cpu().numpy())


def _decoder_of(vae: torch.nn.Module) -> torch.nn.Module | None:
    """The part of a VAE that is one network: its own `decode` may call it for each tile of a picture."""
    found = getattr(vae, "decoder", None)
    return found if isinstance(found, torch.nn.Module) else None


def edited_blocks(edits: Edits | EditHook | None) -> tuple[str, ...]:
    """Short names of the blocks that edits are of."""
    of = edits.edits if isinstance(edits, EditHook) else edits
    return () if of is None else of.blocks


def stages(unet: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The UNet's stages in the order that they run: `down_blocks.0`, ..., `mid_block`, `up_blocks.0`, ..."""

    def listed(name: str) -> dict[str, torch.nn.Module]:
        return {f"{name}.{i}": stage for i, stage in unet.get_submodule(name).named_children()}

    # by name: going through all of a UNet's modules takes some ms a frame
    return {**listed("down_blocks"), "mid_block": unet.get_submodule("mid_block"), **listed("up_blocks")}


@contextmanager
def reused(model: Model, kept: dict[str, object], blocks: tuple[str, ...]) -> Iterator[None]:
    """Inside, the stages before the first that holds an edited block give what they gave before, from `kept`,
    which is filled by the first run of each. For runs that give the UNet the same each time."""
    paths = [block_path(block) for block in blocks]
    with ExitStack() as stack:
        for name, stage in stages(model.unet).items():
            if any(path.startswith(f"{name}.") for path in paths):
                break
            stack.enter_context(_remembered(stage, kept, name))
        yield


@contextmanager
def _remembered(stage: torch.nn.Module, kept: dict[str, object], name: str) -> Iterator[None]:
    """The stage's forward computed once."""
    own = vars(stage).get("forward")
    forward: Callable[..., object] = stage.forward

    def once(*arguments: object, **named: object) -> object:
        if name not in kept:
            kept[name] = forward(*arguments, **named)
        return kept[name]

    stage.forward = once
    try:
        yield
    finally:
        if own is None:
            del stage.forward
        else:
            stage.forward = own
