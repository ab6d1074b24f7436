"""Pictures that pages show by address: a browser fetches each once, answers carry addresses alone."""

import json
import secrets
from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

import anyio.to_thread
from gradio.routes import App
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from unbox.explorer.bounded_cache import BoundedCache
from unbox.image_uri import PictureFile, image_bytes
from unbox.json_types import JSON
from unbox.models.png_record import png_bytes

#: Bytes of pictures at most; those used longest ago make room.
LIMIT = 256 << 20
#: An address is of one picture for ever, so a browser need not ask again.
CACHING = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


class _Encodable(NamedTuple):
    """A picture that nobody has fetched yet."""

    image: Image.Image
    record: Mapping[str, JSON] | None

    def encoded(self) -> bytes:
        """A PNG with the record, or a WebP without."""
        return image_bytes(self.image) if self.record is None else png_bytes(self.image, self.record)


class ServedPictures:
    """Pictures in memory, and files of the atlas, under addresses that nobody can guess.

    An address is a keyed hash of what it shows: equal pictures have one. A picture is encoded when it is
    first fetched. `root`: the path under which a proxy serves the app.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.root = ""
        self._key = secrets.token_bytes(32)
        self._kept: BoundedCache[str, _Encodable | PictureFile | bytes] = BoundedCache(limit)

    def image(self, image: Image.Image, record: Mapping[str, JSON] | None = None) -> str:
        """Address of a picture, without a bit lost; with a `record`, of a PNG that carries it."""
        text = "" if record is None else json.dumps(record)
        name = self._name(f"{image.mode} {image.size} {text}".encode(), image.tobytes())
        name += ".webp" if record is None else ".png"
        if name not in self._kept:
            size = image.width * image.height * len(image.getbands())
            self._kept.put(name, _Encodable(image.copy(), record), size)
        return self._address(name)

    def file(self, path: PictureFile | None) -> str:
        """Address of a picture's file; empty where there is none."""
        if path is None:
            return ""
        name = self._name(str(path).encode(), b"") + path.suffix.lower()
        self._kept.put(name, path, len(str(path)))
        return self._address(name)

    def read(self, name: str) -> bytes | None:
        """The bytes of a picture; None where there is none of that name (any more)."""
        found = self._kept.get(name)
        if found is None or isinstance(found, bytes):
            return found
        if isinstance(found, _Encodable):
            data = found.encoded()
            self._kept.put(name, data, len(data))
            return data
        try:
            return found.read_bytes()
        except OSError:  # the atlas was built anew, or taken away
            return None

    def route(self) -> Route:
        """The route that serves them, to those who may see the app."""
        return Route("/picture/{name}", self._answer)

    async def _answer(self, request: Request) -> Response:
        if not allowed(request):
            return Response(status_code=401)
        name = request.path_params["name"]
        data = await anyio.to_thread.run_sync(self.read, name)
        if data is None:
            return Response("this picture is no longer kept: make it again", 404)
        return Response(data, media_type=f"image/{name.rpartition('.')[2]}", headers=CACHING)

    def _name(self, *parts: bytes) -> str:
        found = blake2b(key=self._key, digest_size=16)
        for part in parts:
            found.update(part)
        return found.hexdigest()

    def _address(self, name: str) -> str:
        return f"{self.root}/picture/{name}"


def allowed(request: Request) -> bool:
    """Whether a request is of somebody who may see the app: of anybody, where it asks for no password."""
    app = request.app
    assert isinstance(app, App)
    if app.auth is None:
        return True
    cookies = (request.cookies.get(f"access-token{kind}-{app.cookie_id}") for kind in ("", "-unsecure"))
    return any(cookie is not None and app.tokens.get(cookie) is not None for cookie in cookies)


#: Those of this process.
PICTURES = ServedPictures()
