"""A picture as a value: what it was made of, and every way to hand that on.

The same JSON is the permalink, the record in a saved PNG (the one that `unbox generate` writes), the API's
argument and, with its edits, a row of an experiment.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import field, replace
from typing import NamedTuple

from PIL import Image

from unbox.edit import Edits
from unbox.errors import FieldError
from unbox.explorer import limits
from unbox.explorer.packed_json import packed, parse, unpacked
from unbox.image_uri import data_uri
from unbox.json_types import JSON
from unbox.models.png_record import png_bytes
from unbox.validation import Seed, parsed, validated

VERSION = 1
#: Keys of `unbox generate`'s record that say which weights and SAEs there were: here are the explorer's own.
_WEIGHTS = ("model", "model_identity", "saes", "dtype")


class OpenedModel(NamedTuple):
    """How a model is opened again."""

    line: str
    """Options of a command, `--model` first: `--model sdxl-turbo --lora style.safetensors`."""
    python: str
    """`unbox.load('sdxl-turbo', lora='style.safetensors')`."""

    @classmethod
    def named(cls, system: str) -> "OpenedModel":
        """A system without further options."""
        return cls(shlex.join(["--model", system]), f"unbox.load({system!r})")


@validated
class Recipe:
    """How a picture is made. Raises FieldError for a value that is outside of `limits`."""

    system: limits.Line
    prompt: limits.Prompt
    seed: Seed
    steps: limits.ImageSteps = 1
    guidance: limits.ImageGuidance = 0.0
    height: limits.ImageSide = 512
    width: limits.ImageSide = 512
    negative_prompt: limits.MaybePrompt = ""
    edits: limits.ImageEdits = field(default_factory=Edits)
    off: limits.Places = frozenset()
    """Places of edits that are switched off."""
    guard: bool = False
    """Keep edited updates within the norms that updates have."""
    photo: limits.PhotoName = ""
    """Name of the user's photo that it starts from; empty: from noise."""
    draw: limits.Draw = None
    """Seed of the draw, where the edits are random features in the place of others."""

    def __post_init__(self) -> None:
        if self.off and max(self.off) >= len(self.edits):
            rule = f"should be places in the list of {len(self.edits)} edits"
            raise FieldError("", "off", sorted(self.off), rule)

    @property
    def active(self) -> Edits:
        """The edits that are switched on."""
        return Edits(tuple(edit for i, edit in enumerate(self.edits) if i not in self.off))

    @property
    def plain(self) -> "Recipe":
        """The same picture without edits."""
        return replace(self, edits=Edits(), off=frozenset(), guard=False, draw=None)

    @property
    def acting(self) -> "Recipe":
        """The same picture's recipe without edits that are off: equal for all that make one picture."""
        active = self.active
        return replace(self, edits=active, off=frozenset(), guard=self.guard and len(active) > 0,
                       draw=None)  # fmt: skip

    def to_json(self) -> dict[str, JSON]:
        """JSON object; inverse of `from_json`."""
        optional: dict[str, JSON] = {"off": sorted(self.off), "guard": self.guard, "photo": self.photo}
        record: dict[str, JSON] = {
            "version": VERSION, "system": self.system, "prompt": self.prompt, "seed": self.seed,
            "steps": self.steps, "guidance": self.guidance, "height": self.height, "width": self.width,
            "negative_prompt": self.negative_prompt or None, "edits": self.edits.to_json(),
        }  # fmt: skip
        drawn: dict[str, JSON] = {} if self.draw is None else {"draw": self.draw}
        return record | {name: value for name, value in optional.items() if value} | drawn

    @classmethod
    def from_json(cls, value: JSON, door: str = "recipe") -> "Recipe":
        """A recipe from JSON that may be anybody's. Raises FieldError naming what is wrong with it."""
        if not isinstance(value, Mapping):
            return parsed(cls, value, door)
        given = {key: each for key, each in value.items() if key not in _WEIGHTS}
        if (version := given.pop("version", VERSION)) != VERSION:
            raise FieldError(door, "version", version, f"should be {VERSION}: this unbox reads no other")
        if rescale := given.pop("guidance_rescale", 0):
            raise FieldError(door, "guidance_rescale", rescale, "should be 0: the explorer has none")
        if given.get("negative_prompt") == "":
            raise FieldError(door, "negative_prompt", "", 'should be null or a text: "" is encoded as one')
        return parsed(cls, given, door)

    @classmethod
    def from_text(cls, text: str) -> "Recipe":
        """A recipe from JSON text of at most `limits.JSON_BYTES`."""
        return cls.from_json(parse(text))

    def to_link(self) -> str:
        """The recipe in a URL: JSON, deflated, in URL-safe base64."""
        return packed(self.to_json())

    @classmethod
    def from_link(cls, link: str) -> "Recipe":
        """Inverse of `to_link`. Raises UnboxError for a link that is damaged, or too long once inflated."""
        return cls.from_json(unpacked(link), "link")

    def to_png_uri(self, image: Image.Image) -> str:
        """The picture that this recipe made, as the data URI of a PNG that carries the recipe."""
        return data_uri(png_bytes(image, self.to_json()), "png")

    def to_python(
        self, saes: str = "saes/", norms: Mapping[str, tuple[float, float]] | None = None,
        opened: "OpenedModel | None" = None,
    ) -> str:  # fmt: skip
        """Python lines that make this picture. `saes`: folder of the SAEs; `norms`: the guard's limits."""
        model = opened or OpenedModel.named(self.system)
        if self.photo:
            return "\n".join(_photo_python(self, model.python, saes))
        lines = ["import unbox", "", f"model = {model.python}"]
        call = f"{self.prompt!r}, seed={self.seed}, steps={self.steps}, guidance={self.guidance!r}"
        call += f", height={self.height}, width={self.width}"
        if self.negative_prompt:
            call += f", negative_prompt={self.negative_prompt!r}"
        if len(self.active):
            lines += [
                f"saes = unbox.load_saes({saes!r})",
                f"edits = unbox.Edits.from_json({self.active.to_json()!r})",
            ]
            edits = "unbox.bind(edits, saes)"
            if self.guard:
                lines.insert(1, "from unbox.edits import Guard, guarded")
                edits = f"guarded({edits}, Guard({dict(norms or {})!r}))"
            call += f", edits={edits}"
        return "\n".join([*lines, f"(image,) = model.generate({call})", 'image.save("image.png")'])

    def to_command(self, saes: str = "saes/", opened: "OpenedModel | None" = None) -> str:
        """Command lines that make this picture, with the edits in a file."""
        model = opened or OpenedModel.named(self.system)
        command = ["unbox", "generate", *shlex.split(model.line), "--prompt", self.prompt,
                   "--seed", str(self.seed), "--steps", str(self.steps), "--guidance", str(self.guidance),
                   "--height", str(self.height), "--width", str(self.width)]  # fmt: skip
        if self.photo:
            command = _photo_command(self, model.line)
        elif self.negative_prompt:
            command += ["--negative-prompt", self.negative_prompt]
        lines = self._unguarded()
        if len(self.active):
            lines.append(f"echo {shlex.quote(json.dumps(self.active.to_json()))} > edits.json")
            command += ["--edits", "edits.json", "--saes", saes]
        return "\n".join([*lines, shlex.join([*command, "--out", "image.png"])])

    def _unguarded(self) -> list[str]:
        """A comment, where the guard is on, for the forms that have none."""
        guarded = self.guard and len(self.active) > 0
        return ["# without the guard on norms, which only the explorer and Python have"] if guarded else []

    def to_experiment(self, saes: str = "saes/", opened: "OpenedModel | None" = None) -> str:
        """A TOML file for `unbox experiment`: this prompt and seed, each edit that is on as a row, with its
        mask as in JSON. A negative prompt and a model's other options cannot be written there, which comments
        say.
        """
        if self.photo:
            return "# an experiment starts from noise: this picture starts from a photo"
        model = opened or OpenedModel.named(self.system)
        name, more = shlex.split(model.line)[1], shlex.split(model.line)[2:]
        lines = [
            *self._unguarded(),
            *(["# without the negative prompt: experiments have none"] if self.negative_prompt else []),
            *([f"# run it with {shlex.join(more)}"] if more else []),
            f"model = {_toml(name)}", f"prompts = [{_toml(self.prompt)}]", f"seeds = [{self.seed}]",
            f"steps = {self.steps}", f"guidance = {self.guidance}",
            f"height = {self.height}", f"width = {self.width}",
        ]  # fmt: skip
        if any(edit.subject == "feature" for edit in self.active):
            lines.append(f"saes = {_toml(saes)}")
        for number, edit in enumerate(self.active):
            lines += ["", "[[edit]]", f"name = {_toml(f'{edit.summary} ({number + 1})')}"]
            lines += [f"{key} = {_toml(value)}" for key, value in edit.to_json().items()]
        return "\n".join(lines)


def _toml(value: JSON) -> str:
    """A JSON value in TOML: the same but for objects, which have other braces' insides."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _photo_python(recipe: "Recipe", model: str, saes: str) -> list[str]:
    """Python that draws the photo again, with the recipe's edits; the page saves the photo."""
    call = f"{recipe.prompt!r}, steps={recipe.steps}, guidance={recipe.guidance!r}"
    lines = [
        "import unbox", "from PIL import Image", "from unbox.edits import invert", "", f"model = {model}",
        f"inversion = invert(model, Image.open('photo.png'), {call}, seed={recipe.seed})",
    ]  # fmt: skip
    if not len(recipe.active):
        return [*lines, "image = inversion.draw()", 'image.save("image.png")']
    edits = f"unbox.Edits.from_json({recipe.active.to_json()!r})"
    edits = f"unbox.bind({edits}, unbox.load_saes({saes!r}))"
    lines += ["# without the guard on norms"] * recipe.guard
    return [*lines, f"image = inversion.draw({edits})", 'image.save("image.png")']


def _photo_command(recipe: "Recipe", model: str) -> list[str]:
    """The command that draws the photo again, without its edits' file."""
    return ["unbox", "invert", "photo.png", *shlex.split(model), "--prompt", recipe.prompt,
            "--seed", str(recipe.seed), "--steps", str(recipe.steps), "--guidance", str(recipe.guidance),
            "--height", str(recipe.height), "--width", str(recipe.width)]  # fmt: skip
