"""A Hub on this machine that takes and gives the files of repositories, as the real one does over HTTP.

Repositories of models are folders OWNER/NAME of its root, those of data sets datasets/OWNER/NAME. Each
commit is remembered, and can be read by its name. Files of STORED_APART go up by git-lfs: by digest, before
the commit.
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

#: The commit of a repository that was put here as a folder.
SHA = "0123456789abcdef0123456789abcdef01234567"
STORED_APART = (".h5", ".bin")
PAGE = 1000


class Hub(BaseHTTPRequestHandler):
    """`root`: folder of the repositories; `asked`: method and path of each request; `sent`: bytes of each
    file that came by git-lfs, by digest; `failing`: digests that are refused, once each; `given`: bytes sent
    of each file that was asked for; `dropping`: files whose connection breaks off half way, once each;
    `forbidden`: files that are not given."""

    root: Path
    asked: list[tuple[str, str]]
    sent: dict[str, int]
    failing: set[str]
    given: dict[str, list[int]]
    dropping: set[str]
    forbidden: set[str]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.give_file()

    def do_GET(self):
        self.asked.append(("GET", self.path))
        path, query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
        if not path.startswith("/api/"):
            self.give_file()
            return
        if path.count("/") < 4:  # what else the client may ask, about itself say
            self.answer({"error": "not here"}, 404)
            return
        kind, owner, name, *rest = path.removeprefix("/api/").split("/")
        repo = f"{owner}/{name}" if kind == "models" else f"{kind}/{owner}/{name}"
        if not (self.root / repo).is_dir():
            self.answer({"error": "Repository not found"}, 404, "RepoNotFound")
            return
        commit = rest[1] if len(rest) > 1 else "main"
        if (files := self.files(repo, commit)) is None:
            self.answer({"error": f"Invalid rev id: {commit}"}, 404, "RevisionNotFound")
        elif rest[:1] == ["tree"]:
            under, deep = "/".join(rest[2:]), query.get("recursive", ["false"])[0].lower() == "true"
            key = (repo, self.head(repo, commit), under, deep)
            if key not in self.trees or key[1] == SHA:  # a commit does not change
                self.trees[key] = self.entries(files, under, deep)
            self.give_tree(self.trees[key], under, deep, query)
        else:
            siblings = [{"rfilename": path} for path in files]
            self.answer({"id": f"{owner}/{name}", "sha": self.head(repo, commit), "siblings": siblings})

    def entries(self, files, under, deep):
        """The files in a folder, or of all below it, and folders; None where there is none."""
        inside = {p: f for p, f in files.items() if not under or p.startswith(f"{under}/")}
        if not inside and under:
            return None
        at = len(under) + 1 if under else 0
        entries, folders = [], set()
        for path, (size, sha) in inside.items():
            ends = [k for k, letter in enumerate(path) if letter == "/" and k >= at]
            folders |= {path[:end] for end in ends[: None if deep else 1]}
            if deep or not ends:
                lfs = {"oid": sha, "size": size, "pointerSize": 130}
                apart = path.endswith(STORED_APART)
                blob = self.blob(sha)
                oid = SHA if apart or not blob.exists() else git_name(blob.read_bytes())
                entries.append(
                    {
                        "type": "file",
                        "path": path,
                        "size": size,
                        "oid": oid,
                        **({"lfs": lfs} if apart else {}),
                    }
                )
        entries += [{"type": "directory", "path": path, "oid": SHA, "size": 0} for path in sorted(folders)]
        return entries

    def give_tree(self, entries, under, deep, query):
        """A page of them."""
        if entries is None:
            self.answer({"error": "not here"}, 404, "EntryNotFound")
            return
        first = int(query.get("cursor", ["0"])[0])
        more = {}
        if first + PAGE < len(entries):
            place = urlsplit(self.path)._replace(query=f"recursive={deep}&cursor={first + PAGE}").geturl()
            more = {"Link": f'<http://{self.headers["Host"]}{place}>; rel="next"'}
        self.answer(entries[first : first + PAGE], **more)

    def do_PUT(self):
        data = self.body()
        sha = self.path.rsplit("/", 1)[1]
        self.asked.append(("PUT", self.path))
        if sha in self.failing or hashlib.sha256(data).hexdigest() != sha:
            self.failing.discard(sha)
            self.answer_bytes(b"no", 400)
            return
        self.put_blob(sha, data)
        self.sent[sha] = len(data)
        self.answer_bytes(b"", 200)

    def body(self):
        """What came with a request, all at once or in chunks."""
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self):
        self.asked.append(("POST", self.path))
        body = self.body()
        words = urlsplit(self.path).path.strip("/").split("/")
        if words[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            repo = f"datasets/{repo}" if asked.get("type") == "dataset" else repo
            (self.root / repo).mkdir(parents=True, exist_ok=True)
            self.answer(
                {"url": f"http://{self.headers['Host']}/{repo}", "id": repo.removeprefix("datasets/")}
            )
        elif words[-3:] == ["lfs", "objects", "batch"]:
            self.answer(
                {"objects": [self.action(each) for each in json.loads(body)["objects"]], "transfer": "basic"}
            )
        elif words[1] == "validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif words[4] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(STORED_APART) else "regular" for path in files}
            told = [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]
            self.answer({"files": told})
        else:
            repo = "/".join(words[2:4]) if words[1] == "models" else "/".join(words[1:4])
            self.commit(repo, [json.loads(line) for line in body.splitlines()])

    def action(self, asked):
        """What git-lfs is told of a file: where to send it; nothing where it is here."""
        told = {"oid": asked["oid"], "size": asked["size"]}
        if not self.blob(asked["oid"]).exists():
            told["actions"] = {"upload": {"href": f"http://{self.headers['Host']}/lfs/{asked['oid']}"}}
        return told

    def commit(self, repo, lines):
        """Files are put in the repository's folder, so that tests see them; and remembered by the commit."""
        parent = next((line["value"].get("parentCommit") for line in lines if line["key"] == "header"), None)
        if parent is not None and parent != self.head(repo):
            self.answer({"error": "the branch has moved on"}, 412)
            return
        files = dict(self.files(repo, "main") or {})
        for line in lines:
            value, path = line["value"], line["value"].get("path")
            if line["key"] == "file":
                data = base64.b64decode(value["content"])
                sha = hashlib.sha256(data).hexdigest()
                self.put_blob(sha, data)
            elif line["key"] == "lfsFile":
                sha = value["oid"]
            elif line["key"] == "deletedFile":
                del files[path]
                (self.root / repo / path).unlink()
                continue
            else:
                continue
            files[path] = self.blob(sha).stat().st_size, sha
            place = self.root / repo / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(self.blob(sha).read_bytes())
        sha = hashlib.sha1(json.dumps([files, self.head(repo)]).encode()).hexdigest()
        kept = self.kept(repo)
        kept.mkdir(parents=True, exist_ok=True)
        (kept / f"{sha}.json").write_text(json.dumps(files))
        (kept / "head").write_text(sha)
        self.answer(
            {
                "success": True,
                "commitUrl": f"http://{self.headers['Host']}/{repo}/commit/{sha}",
                "commitOid": sha,
            }
        )

    def kept(self, repo):
        return self.root / ".commits" / repo

    def head(self, repo, commit="main"):
        """The name of a commit."""
        head = self.kept(repo) / "head"
        return commit if commit != "main" else head.read_text() if head.exists() else SHA

    def files(self, repo, commit):
        """Path -> (bytes, SHA-256) of a commit; None if there is none of this name."""
        sha = self.head(repo, commit)
        if (record := self.kept(repo) / f"{sha}.json").exists():
            if record not in self.records:
                self.records[record] = json.loads(record.read_text())
            return self.records[record]
        if sha != SHA:
            return None
        found = {}
        for path in sorted(path for path in (self.root / repo).rglob("*") if path.is_file()):
            data = path.read_bytes()
            found[str(path.relative_to(self.root / repo))] = len(data), hashlib.sha256(data).hexdigest()
        return found

    def give_file(self):
        words = unquote(urlsplit(self.path).path).strip("/").split("/")
        repo = "/".join(words[: 3 if words[0] == "datasets" else 2])
        _, commit, *path = words[len(repo.split("/")) :]
        _, sha = (self.files(repo, commit) or {}).get("/".join(path), (0, None))
        if sha is None:
            self.answer({"error": "Entry not found"}, 404, "EntryNotFound")
            return
        blob = self.blob(sha)
        data = blob.read_bytes() if blob.exists() else self.root.joinpath(repo, *path).read_bytes()
        headers = {"X-Repo-Commit": self.head(repo, commit)}
        name = f"{repo}/{'/'.join(path)}"
        if name in self.forbidden:
            self.answer({"error": "not for you"}, 403, **headers)
            return
        asked = self.headers["Range"]
        if asked and self.command == "GET":
            first, last = asked.removeprefix("bytes=").split("-")
            first, end = int(first), min(int(last or len(data)) + 1, len(data))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            self.given.setdefault(name, []).append(end - first)
            self.answer_bytes(data[first:end], 206, data, **headers)
            return
        half = name in self.dropping and self.command == "GET"
        if self.command == "GET":
            self.given.setdefault(name, []).append(len(data) // 2 if half else len(data))
        self.dropping.discard(name) if half else None
        self.answer_bytes(data, 200, cut=half, **headers)

    def blob(self, sha):
        return self.root / ".blobs" / sha

    def put_blob(self, sha, data):
        self.blob(sha).parent.mkdir(parents=True, exist_ok=True)
        temporary = self.blob(f"{sha}.{threading.get_ident()}")
        temporary.write_bytes(data)
        temporary.rename(self.blob(sha))

    def answer(self, value, code=200, error=None, **headers):
        headers |= {"X-Error-Code": error} if error else {}
        self.answer_bytes(json.dumps(value).encode(), code, **{"Content-Type": "application/json", **headers})

    def answer_bytes(self, data, code, whole=None, cut=False, **headers):
        """`whole`: the file that `data` is the end of; `cut`: the connection breaks off half way."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data if whole is None else whole).hexdigest()}"')
        if "X-Repo-Commit" not in headers:
            self.send_header("X-Repo-Commit", SHA)
        self.end_headers()
        if cut:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        """Quiet."""


def git_name(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def hub_of(root: Path) -> type[Hub]:
    """A Hub with the repositories in a folder, that remembers what it was asked."""
    return type(
        "HubOf",
        (Hub,),
        {
            "root": root,
            "asked": [],
            "sent": {},
            "failing": set(),
            "trees": {},
            "records": {},
            "given": {},
            "dropping": set(),
            "forbidden": set(),
        },
    )


def serve(root: Path, hub: type[Hub] | None = None) -> str:
    """Serve the repositories in a folder until the process ends; the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub or hub_of(root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
