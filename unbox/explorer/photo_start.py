"""Pictures that start from a user's own photo: kept in memory, inverted once, drawn again with edits."""

import base64
import io
from hashlib import sha256

from PIL import Image, UnidentifiedImageError

from unbox.edits import Inversion, invert
from unbox.errors import FieldError, UnboxError
from unbox.explorer.bounded_cache import BoundedCache
from unbox.explorer.image_recipe import Recipe
from unbox.models import Model

#: Bytes of photos that are kept, and of their inversions; characters of a photo that a page sends.
PHOTOS, INVERSIONS, LONGEST = 64 << 20, 256 << 20, 8 << 20


class Photos:
    """The photos that visitors gave, by what they show, and their inversions."""

    def __init__(self) -> None:
        self._photos: BoundedCache[str, Image.Image] = BoundedCache(PHOTOS)
        self._inversions: BoundedCache[Recipe, Inversion] = BoundedCache(INVERSIONS)

    def add(self, image: Image.Image) -> str:
        """Keep a photo; its name for recipes, a hash of what it shows."""
        name = sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:32]
        self._photos.put(name, image, 3 * image.width * image.height)
        return name

    def photo(self, name: str) -> Image.Image:
        """A photo by its name. Raises FieldError for one that is not here."""
        found = self._photos.get(name)
        if found is None:
            rule = "is not here (any more): photos stay with the explorer that was given them; give it again"
            raise FieldError("picture", "photo", name, rule)
        return found

    def inversion(self, model: Model, recipe: Recipe) -> Inversion:
        """The photo of a recipe as a run of its model, made once for each prompt, seed and so on."""
        key = recipe.plain
        found = self._inversions.get(key)
        if found is None:
            if recipe.negative_prompt:
                raise UnboxError("a picture that starts from a photo has no negative prompt: leave it empty")
            photo = self.photo(recipe.photo)
            found = invert(model, photo, recipe.prompt, steps=recipe.steps, guidance=recipe.guidance,
                           seed=recipe.seed)  # fmt: skip
            self._inversions.put(key, found, 2 * found.states.numel() * found.states.element_size())
        return found


def decoded_photo(text: str, width: int, height: int) -> Image.Image:
    """The photo that the page sends: base64 of a JPEG or PNG of exactly the picture's size, which the browser
    has cut it to. Raises FieldError for anything else, before it is decoded."""
    if len(text) > LONGEST:
        raise FieldError("picture", "photo", f"{len(text):,} characters", f"should be at most {LONGEST:,}")
    try:
        data = base64.b64decode(text, validate=True)
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        if image.size != (width, height):
            raise ValueError(f"is {image.width} x {image.height} pixels, not {width} x {height}")
        return image.convert("RGB")
    except (ValueError, OSError, UnidentifiedImageError) as error:
        rule = f"should be a picture: {error}"
        raise FieldError("picture", "photo", f"{len(text):,} characters", rule) from None


def fidelity_note(fidelity: dict[str, float]) -> str:
    """How much of a photo is the model's own work."""
    vae, run, model = (f"{fidelity[name]:.1f} dB" for name in ("vae", "run", "model"))
    return (f"your photo, drawn again: PSNR {run} with corrections (its VAE alone reaches {vae}), {model} by "
            "the model alone")  # fmt: skip
