"""A Hub on this machine that takes and gives the files of repositories, as the real one does over HTTP."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Repositories are folders OWNER/NAME of `root`."""

    root: Path
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.give_file()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if not path.startswith("/api/models/"):
            self.give_file()
            return
        owner, name, *rest = path.removeprefix("/api/models/").split("/")
        files = [file for file in sorted((self.root / owner / name).rglob("*")) if file.is_file()]
        paths = [str(file.relative_to(self.root / owner / name)) for file in files]
        if rest[:1] == ["tree"]:
            sizes = [file.stat().st_size for file in files]
            entries = [
                {"type": "file", "path": path, "size": size, "oid": SHA}
                for path, size in zip(paths, sizes, strict=True)
            ]
            self.answer(entries)
        else:
            siblings = [{"rfilename": path} for path in paths]
            self.answer({"id": f"{owner}/{name}", "sha": SHA, "siblings": siblings})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        words = urlsplit(self.path).path.strip("/").split("/")
        if words[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            (self.root / repo).mkdir(parents=True, exist_ok=True)
            self.answer({"url": f"http://{self.headers['Host']}/{repo}", "id": repo})
        elif words[4] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            told = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self.answer({"files": told})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            for file in (line["value"] for line in lines if line["key"] == "file"):
                path = self.root / words[2] / words[3] / file["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(file["content"]))
            url = f"http://{self.headers['Host']}/{words[2]}/{words[3]}/commit/{SHA}"
            self.answer({"success": True, "commitUrl": url, "commitOid": SHA})

    def give_file(self):
        owner, name, _, _, *path = unquote(urlsplit(self.path).path).strip("/").split("/")
        file = self.root.joinpath(owner, name, *path)
        self.answer_bytes(file.read_bytes() if file.is_file() else b"", 200 if file.is_file() else 404)

    def answer(self, value):
        self.answer_bytes(json.dumps(value).encode(), 200)

    def answer_bytes(self, data, code):
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", SHA)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        """Quiet."""


def serve(root: Path) -> str:
    """Serve the repositories in a folder until the process ends; the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubOf", (Hub,), {"root": root}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
