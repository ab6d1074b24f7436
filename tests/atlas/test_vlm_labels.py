"""Labels by a model, from an endpoint that really answers over HTTP: it judges the pixels that it is sent."""

import base64
import io
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

import pytest
from PIL import Image

from unbox.atlas import Atlas
from unbox.atlas.vlm_labels import Endpoint, detect, find_label, find_labels, label_feature, numbers_in
from unbox.errors import UnboxError


def is_red(data: bytes) -> bool:
    """Whether a planted thumbnail is red."""
    red, green, blue = Image.open(io.BytesIO(data)).convert("RGB").getpixel((4, 4))
    return red > green + blue


class Judge(BaseHTTPRequestHandler):
    """Calls everything red; in a test of the label it names the images it is told to."""

    asked: list[dict] = []  # noqa: RUF012
    wrong = False
    answer: str | None = None
    body: bytes | None = None

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append({"body": body, "key": self.headers.get("Authorization")})
        text, *pictures = body["messages"][0]["content"]
        seen = [is_red(base64.b64decode(p["image_url"]["url"].split(",")[1])) for p in pictures]
        reds = [place + 1 for place, red in enumerate(seen) if red != self.wrong]
        answer = "red things." if "label of at most" in text["text"] else ", ".join(map(str, reds))
        answer = self.answer or answer
        data = self.body or json.dumps({"choices": [{"message": {"content": answer}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def judge():
    with HTTPServer(("127.0.0.1", 0), Judge) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        Judge.asked, Judge.wrong = [], False
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.fixture
def own(atlas, tmp_path):
    shutil.copytree(atlas.path, tmp_path / "atlas")
    return Atlas.open(tmp_path / "atlas")


def test_a_label_is_made_tested_and_kept(own, judge):
    found = label_feature(own, "mid.0/0", Endpoint(judge, "a-model", "key"))
    assert found.text == "red things"
    assert found.score == 1
    assert [each["key"] for each in Judge.asked] == ["Bearer key"] * 2
    assert Judge.asked[0]["body"]["model"] == "a-model"
    label = own.labels("mid.0/0")[0]
    assert (label.kind, label.author, label.text) == ("model", "a-model", "red things")
    assert label.score == pytest.approx(found.score)
    assert own.feature("mid.0/0").label == "red things"


def test_a_wrong_judge_scores_low(own, judge):
    Judge.wrong = True
    assert label_feature(own, "mid.0/0", Endpoint(judge, "a-model")).score == 0
    assert Judge.asked[0]["key"] is None


@pytest.mark.parametrize("answer", ["9" * 5000, "1 " + "9" * 5000, "none", "\u0661"])
def test_an_answer_of_other_numbers_is_no_crash(own, judge, answer, monkeypatch):
    found = own.examples("mid.0/0", "top")
    monkeypatch.setattr(Judge, "answer", answer)
    score, count = detect(Endpoint(judge, "m"), "red", found[:2], found[2:4], 0)
    assert count == 4
    assert 0 <= score <= 1


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b"\xff", b"3", b"{}", b'{"choices": [{"message": {"content": 3}}]}']
)
def test_a_body_that_is_no_answer_is_refused(own, judge, body, monkeypatch):
    monkeypatch.setattr(Judge, "body", body)
    with pytest.raises(UnboxError, match=r"no answer that can be read|an empty answer"):
        label_feature(own, "mid.0/0", Endpoint(judge, "m"))


def test_endpoints_that_do_not_answer(own):
    for url in ("http://127.0.0.1:9/v1", "ftp://x", "file:///etc/passwd"):
        with pytest.raises(UnboxError):
            label_feature(own, "mid.0/0", Endpoint(url, "m"))
    assert all(label.kind != "model" for label in own.labels("mid.0/0"))


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("5.", {5}),
        ("1, 2 and 5.", {1, 2, 5}),
        ("Images #3, [4]; (7)", {3, 4, 7}),
        ("2-4, 9", {2, 3, 4, 9}),
        ("2 \u2013 3", {2, 3}),
        ("1.\n2.\n", {1, 2}),
        ("none", set()),
        ("0.5 or 12th, v2", set()),
        ("**6**", {6}),
        ("4-2", set()),
    ],
)
def test_numbers_are_read_however_they_are_set_apart(answer, numbers):
    assert numbers_in(answer) == numbers


def test_labels_in_bulk_are_those_one_by_one_and_asked_at_once(atlas):
    atlas = Atlas.open(atlas) if not isinstance(atlas, Atlas) else atlas
    names = [f.name for f in atlas.search("", limit=40) if atlas.examples(f.name, "top")][:4]
    together = threading.Barrier(2, timeout=20)
    first: set[str] = set()

    class Waits(Judge):
        def do_POST(self):
            if len(first) < 2:  # two are here at a time, or the test ends in an error
                first.add(threading.current_thread().name)
                together.wait()
            super().do_POST()

    with ThreadingHTTPServer(("127.0.0.1", 0), Waits) as server:
        threading.Thread(target=server.serve_forever).start()
        endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "judge")
        found = list(find_labels(atlas, names, endpoint, 3, at_once=2))
        alone = [(name, find_label(atlas, name, endpoint, 3)) for name in names]
        server.shutdown()
    assert found == alone
    assert len(found) == 4
