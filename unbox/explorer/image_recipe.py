"""A picture as a value: what it was made of, and every way to hand that on.

The same JSON is the permalink, the record in a saved PNG (the one that `unbox generate` writes), the API's
argument and, with its edits, a row of an experiment.
"""

import base64
import json
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from PIL import Image

from activation_store import StoreError
from activation_store.files import parse_json
from unbox.edit import Edits
from unbox.errors import UnboxError
from unbox.explorer import limits
from unbox.image_uri import data_uri
from unbox.json_types import JSON
from unbox.models.png_record import png_bytes

VERSION = 1
#: Keys of the JSON that only the explorer reads; the others are as in `unbox generate`'s PNGs.
_EXPLORER_KEYS = ("version", "off", "guard")
#: Keys of `unbox generate`'s record that say nothing here.
_IGNORED_KEYS = ("model", "model_identity", "guidance_rescale", "saes")
#: What an experiment's file says in place of a painted mask.
_PAINTED = '# a painted mask: save it as a picture, then where = { image = "mask.png" }'


@dataclass(frozen=True)
class Recipe:
    """How a picture is made. Values are checked against `limits` when it is read from JSON."""

    system: str
    prompt: str
    seed: int
    steps: int
    guidance: float
    height: int
    width: int
    negative_prompt: str = ""
    edits: Edits = field(default_factory=Edits)
    off: frozenset[int] = frozenset()
    """Places of edits that are switched off."""
    guard: bool = False
    """Keep edited updates within the norms that updates have."""

    @property
    def active(self) -> Edits:
        """The edits that are switched on."""
        return Edits(tuple(edit for i, edit in enumerate(self.edits) if i not in self.off))

    @property
    def plain(self) -> "Recipe":
        """The same picture without edits."""
        return replace(self, edits=Edits(), off=frozenset(), guard=False)

    def to_json(self) -> dict[str, JSON]:
        """JSON object; inverse of `from_json`."""
        optional: dict[str, JSON] = {"off": sorted(self.off), "guard": self.guard}
        record: dict[str, JSON] = {
            "version": VERSION, "system": self.system, "prompt": self.prompt, "seed": self.seed,
            "steps": self.steps, "guidance": self.guidance, "height": self.height, "width": self.width,
            "negative_prompt": self.negative_prompt or None, "edits": self.edits.to_json(),
        }  # fmt: skip
        return record | {name: value for name, value in optional.items() if value}

    @classmethod
    def from_json(cls, value: JSON) -> "Recipe":
        """A recipe from JSON that may be anybody's. Raises UnboxError naming what is wrong with it."""
        if not isinstance(value, Mapping):
            raise UnboxError("not a recipe: it is an object with system, prompt, seed, steps and edits")
        fields = set(cls.__dataclass_fields__)
        if unknown := ", ".join(sorted(set(value) - fields - {*_EXPLORER_KEYS, *_IGNORED_KEYS})):
            raise UnboxError(f"not a recipe: unknown {unknown[:100]}; it may have {', '.join(fields)}")
        if value.get("version", VERSION) != VERSION:
            raise UnboxError(f"a recipe of version {value['version']} cannot be read; this is {VERSION}")
        if missing := [name for name in ("system", "prompt", "seed") if name not in value]:
            raise UnboxError(f"not a recipe: it lacks {', '.join(missing)}")
        edits = limits.edits(value.get("edits") or [])
        return cls(
            system=limits.text("system", value["system"], 200),
            prompt=limits.text("prompt", value["prompt"]),
            seed=limits.seed(value["seed"]),
            steps=limits.steps(value.get("steps", 1)),
            guidance=limits.guidance(value.get("guidance", 0.0)),
            height=limits.side("height", value.get("height", 512)),
            width=limits.side("width", value.get("width", 512)),
            negative_prompt=limits.text("negative_prompt", value.get("negative_prompt") or ""),
            edits=edits,
            off=limits.places("off", value.get("off", []), len(edits)),
            guard=bool(value.get("guard", False)),
        )

    @classmethod
    def from_text(cls, text: str) -> "Recipe":
        """A recipe from JSON text of at most `limits.JSON_BYTES`."""
        return cls.from_json(parse(text))

    def to_link(self) -> str:
        """The recipe in a URL: JSON, deflated, in URL-safe base64."""
        data = json.dumps(self.to_json(), separators=(",", ":"), allow_nan=False).encode()
        return base64.urlsafe_b64encode(zlib.compress(data, 9)).decode().rstrip("=")

    @classmethod
    def from_link(cls, link: str) -> "Recipe":
        """Inverse of `to_link`. Raises UnboxError for a link that is damaged, or too long once inflated."""
        try:
            packed = base64.b64decode(link.encode("ascii") + b"=" * (-len(link) % 4), b"-_", validate=True)
            inflater = zlib.decompressobj()
            data = inflater.decompress(packed, limits.JSON_BYTES + 1)
            if not inflater.eof and len(data) <= limits.JSON_BYTES:
                raise ValueError("it is cut off")
        except (ValueError, zlib.error) as error:
            raise UnboxError(f"this link is damaged: {error}") from error
        return cls.from_json(parse(data))

    def to_png_uri(self, image: Image.Image) -> str:
        """The picture that this recipe made, as the data URI of a PNG that carries the recipe."""
        return data_uri(png_bytes(image, self.to_json()), "png")

    def to_python(self, saes: str = "saes/", norms: Mapping[str, tuple[float, float]] | None = None) -> str:
        """Python lines that make this picture. `saes`: folder of the SAEs; `norms`: the guard's limits."""
        lines = ["import unbox", "", f"model = unbox.load({self.system!r})"]
        call = f"{self.prompt!r}, seed={self.seed}, steps={self.steps}, guidance={self.guidance:g}"
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

    def to_command(self, saes: str = "saes/") -> str:
        """Command lines that make this picture, with the edits in a file."""
        command = ["unbox", "generate", "--model", self.system, "--prompt", self.prompt,
                   "--seed", str(self.seed), "--steps", str(self.steps), "--guidance", f"{self.guidance:g}",
                   "--height", str(self.height), "--width", str(self.width)]  # fmt: skip
        if self.negative_prompt:
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

    def to_experiment(self, saes: str = "saes/") -> str:
        """A TOML file for `unbox experiment`: this prompt and seed, each edit that is on as a row.

        Masks that were painted cannot be written there; their edits act everywhere, which a comment says.
        """
        lines = [
            *self._unguarded(),
            f"model = {_toml(self.system)}", f"prompts = [{_toml(self.prompt)}]", f"seeds = [{self.seed}]",
            f"steps = {self.steps}", f"guidance = {self.guidance:g}",
            f"height = {self.height}", f"width = {self.width}",
        ]  # fmt: skip
        if any(edit.subject == "feature" for edit in self.active):
            lines.append(f"saes = {_toml(saes)}")
        for number, edit in enumerate(self.active):
            lines += ["", "[[edit]]", f"name = {_toml(f'{edit.summary} ({number + 1})')}"]
            for key, value in edit.to_json().items():
                painted = key == "where" and isinstance(value, Mapping) and "box" not in value
                lines.append(_PAINTED if painted else f"{key} = {_toml(value)}")
        return "\n".join(lines)


def parse(text: str | bytes) -> JSON:
    """Strict JSON of at most `limits.JSON_BYTES`. Raises UnboxError."""
    if len(text) > limits.JSON_BYTES:
        raise UnboxError(f"this JSON is over {limits.JSON_BYTES:,} bytes")
    try:
        return parse_json(text, "what was given")
    except StoreError as error:
        raise UnboxError(str(error)) from None


def _toml(value: JSON) -> str:
    """A JSON value in TOML: the same but for objects, which have other braces' insides."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
