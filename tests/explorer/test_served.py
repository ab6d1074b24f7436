"""The explorer as it is served: routes, the API, hostile requests, a crowd."""

import asyncio
import io
import json
import re
import shlex
from contextlib import contextmanager

import httpx
import pytest
from PIL import Image

from tests.explorer.conftest import served, started, stop
from unbox.explorer.interface import is_local


@pytest.fixture(scope="module")
def http(url):
    with httpx.Client(base_url=url, timeout=120) as client:
        yield client


#: Files and addresses that nobody may make the app read.
FILES = (
    "/etc/passwd",
    "http://127.0.0.1:9/x.png",
    "http://169.254.169.254/latest/meta-data",
    "file:///etc/passwd",
)
EDIT = {"block": "mid.0", "feature": [1], "op": "add", "value": 50, "unit": "deviation"}


def file(path: str) -> dict:
    """What Gradio's components take for a file."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def call(http, name: str, *data):
    """An API call: the result, or the error's message."""
    started = http.post(f"/gradio_api/call/{name}", json={"data": list(data)})
    if started.status_code != 200:
        return f"refused: {started.status_code}"
    event = started.json()["event_id"]
    text = http.get(f"/gradio_api/call/{name}/{event}").text
    kind, payload = text.strip().split("\n")[-2:]
    value = json.loads(payload.removeprefix("data: "))
    return value[0] if kind == "event: complete" else f"error: {value}"


def test_only_the_useful_actions_are_endpoints(http):
    named = http.get("/gradio_api/info").json()["named_endpoints"]
    assert set(named) == {
        "/systems", "/generate", "/see_features", "/features_at", "/edit", "/compare", "/strengths",
        "/feature", "/examples", "/search_features", "/label_feature", "/blocks",
    }  # fmt: skip
    assert all(each["description"] for each in named.values())


def test_the_api_does_what_the_pages_do(http):
    assert call(http, "systems") == [{"system": "tiny", "default": True}]
    made = call(http, "generate", "a red cat", 7, 0, "", [])
    assert made["image"].startswith("data:image/png;base64,")
    assert made["recipe"]["steps"] == 2
    seen = call(http, "see_features", "a red cat", 7, 0, "", 3)
    assert [len(rows) for rows in seen["features"].values()] == [3, 3]
    both = call(http, "edit", {**made["recipe"], "edits": [EDIT]}, False)
    assert both["before"] != both["after"]
    control = call(http, "edit", {**made["recipe"], "edits": [EDIT]}, True)
    assert control["before"] == both["before"]
    assert control["recipe"]["edits"] != both["recipe"]["edits"]
    differs = call(http, "compare", made["recipe"], both["recipe"])
    assert differs["left"] != differs["right"]
    assert differs["more_right"]["up.1.2"][0]["activation"] > 0
    here = call(http, "features_at", "a red cat", 0.5, 0.5, 7, 0, "", 2)
    assert [len(rows) for rows in here.values()] == [2, 2]
    strip = call(http, "strengths", "mid.0/1", "a red cat", 7)
    assert len({each["image"] for each in strip["strengths"]}) == len(strip["strengths"])
    assert set(call(http, "blocks")) == {"mid.0", "up.1.2"}
    assert call(http, "feature", "mid.0/1")["name"] == "mid.0/1"
    found = call(http, "search_features", "red", "words", "", 5)
    top, *_ = call(http, "examples", found[0]["name"], "top", -1)
    assert top["peak"] == pytest.approx(max(map(max, top["heat"])), abs=1e-3)
    assert call(http, "search_features", "a red circle", "meaning", "mid.0", 5)[0]["block"] == "mid.0"


def test_a_stop_that_comes_late_ends_only_the_run_that_it_is_for(http):
    """The second run has begun, or waits, when the Stop for the first arrives."""
    config = http.get("/config").json()
    ids = {each["props"].get("elem_id"): each["id"] for each in config["components"]}

    def wired(name: str) -> list[dict]:
        return [each for each in config["dependencies"] if [ids[name], "click"] in each["targets"]]

    (make,) = wired("explore-make")
    visitor = {"session_hash": "late", "fn_index": make["id"]}

    def ask(steps: int) -> str:
        view = ["all", "most telling", None, None]  # what is chosen is the session's own
        data = [*view, "tiny", "a red cat", 7, steps, 0.0, 64, 64, ""]
        return http.post("/gradio_api/queue/join", json={**visitor, "data": data}).json()["event_id"]

    first = ask(100)
    with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": "late"}) as stream:
        messages = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))

        def wait(kind: str, event: str) -> dict:
            return next(each for each in messages if each["msg"] == kind and each.get("event_id") == event)

        wait("progress", first)
        second = ask(20)
        assert http.post("/gradio_api/cancel", json={**visitor, "event_id": first}).json()["success"]
        wait("progress", second)
        for each in wired("explore-stop"):
            if each["backend_fn"]:
                late = {"session_hash": "late", "fn_index": each["id"], "data": []}
                assert http.post("/gradio_api/run/predict", json=late).status_code == 200
        done = wait("process_completed", second)
    assert done["success"]
    assert ["19", "19"] in done["output"]["data"][4]["choices"]  # the last of the second run's steps


@pytest.mark.parametrize(
    ("name", "data"),
    [
        *(("generate", ["a", 0, steps, "", []]) for steps in (-1, 10**9, 2.5, "x", [1])),
        *(("generate", [prompt, 0, 0, "", []]) for prompt in ("x" * 10**6, None, 7, {})),
        *(("generate", [file(path), 0, 0, "", []]) for path in FILES),
        *(("strengths", [file(path), "", 0]) for path in FILES),
        *(("generate", ["a", seed, 0, "", []]) for seed in (-1, 2**70, 1e308, "0")),
        *(("generate", ["a", 0, 0, system, []]) for system in ("sdxl-turbo", "../..", "http://x.example", 7)),
        *(("generate", ["a", 0, 0, "", edits]) for edits in (
            [EDIT | {"feature": [-1]}], [EDIT | {"feature": [32]}],
            [EDIT | {"value": 1e308}], [{}] * 10**4, "x",
            [EDIT | {"where": {"shape": [6000, 6000], "dtype": "u1", "zlib": ""}}],
        )),
        ("feature", ["mid.0/99"]), ("feature", ["../../etc/passwd"]), ("feature", [None]),
        ("search_features", ["x" * 10**5, "words", "", 5]), ("search_features", ["a", "sql", "", 5]),
        ("search_features", ["a", "words", "", 10**9]), ("label_feature", ["mid.0/1", "\x00", "me"]),
        ("edit", [{"system": "tiny"}, False]), ("edit", ["x", False]), ("compare", [{}, {}]),
        ("strengths", ["mid.0/99", ""]),
        *(("features_at", ["a", x, 0.5, 0, 0, "", 2]) for x in (-1, 1, 1e308, "x", None)),
        ("examples", ["mid.0/1", "best", 0]), ("examples", ["mid.0/1", "interval", -1]),
        ("examples", ["mid.0/1", "interval", 99]),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(http, name, data):
    assert str(call(http, name, *data)).startswith(("error", "refused"))


def test_numbers_that_are_no_json_are_refused(http):
    body = '{"data": ["a", NaN, 0, "", []]}'
    answer = http.post(
        "/gradio_api/call/generate", content=body, headers={"content-type": "application/json"}
    )
    if answer.status_code == 200:
        text = http.get(f"/gradio_api/call/generate/{answer.json()['event_id']}").text
        assert "event: error" in text
    assert call(http, "systems")


def test_nothing_is_served_that_should_not_be(http, session):
    secrets = [
        "/etc/passwd",
        "/root/.bashrc",
        str(session.atlas.database_path),
        f"{session.atlas.path}/atlas.json",
        "pyproject.toml",
        "unbox/explorer/interface.py",
        "../../../etc/passwd",
        "https://example.com/x.png",
        "file:///etc/passwd",
        "/proc/self/environ",
    ]
    for secret in secrets:
        for route in (
            "/gradio_api/file=",
            "/file=",
            "/gradio_api/file/",
            "/static/",
            "/assets/",
            "/picture/",
        ):
            answer = http.get(f"{route}{secret}")
            assert answer.status_code in (400, 403, 404, 405, 422), (route, secret, answer.status_code)


def test_large_uploads_are_refused(http):
    answer = http.post("/gradio_api/upload", files={"files": ("x.png", bytes(3 << 20))})
    assert answer.status_code >= 400


def test_a_small_picture_that_inflates_is_never_opened(http):
    """5 KB that would be 36 million pixels: an upload has no use, whatever is done with it."""
    data = io.BytesIO()
    Image.new("1", (6000, 6000)).save(data, "PNG")
    assert len(data.getvalue()) < 35_000
    answer = http.post("/gradio_api/upload", files={"files": ("x.png", data.getvalue())})
    if answer.status_code == 200:
        sent = file(answer.json()[0])
        assert str(call(http, "generate", sent, 0, 0, "", [])).startswith(("error", "refused"))
        assert str(call(http, "edit", sent, False)).startswith(("error", "refused"))
    assert call(http, "systems")


def test_in_a_crowd_every_question_is_answered_and_runs_are_made_or_told_when_to_try_again(url, http):
    async def crowd() -> tuple[list[str], list[str]]:
        limits = httpx.Limits(max_connections=250, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

            async def ask(name: str, *data) -> str:
                started = await client.post(f"/gradio_api/call/{name}", json={"data": list(data)})
                if started.status_code != 200:
                    return started.text
                answer = await client.get(f"/gradio_api/call/{name}/{started.json()['event_id']}")
                return "answered" if "event: complete" in answer.text else answer.text

            runs = [ask("generate", "a red cat", 100 + i, 1, "", []) for i in range(100)]
            questions = [ask("search_features", "red", "words", "", 5) for _ in range(100)]
            found = await asyncio.gather(
                *(each for pair in zip(runs, questions, strict=True) for each in pair)
            )
            return found[::2], found[1::2]

    runs, questions = asyncio.run(crowd())
    assert questions == ["answered"] * 100
    refused = [each for each in runs if each != "answered"]
    assert 32 <= runs.count("answered") < 100
    assert all(re.search(r"32 at most: try again in about \d+ s", each) for each in refused)
    assert call(http, "generate", "a red cat", 7, 0, "", [])["recipe"]["seed"] == 7


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_this_machine_alone(host):
    assert is_local(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.com", ""])
def test_elsewhere(host):
    assert not is_local(host)


@pytest.mark.slow
def test_elsewhere_a_password_is_asked_for(home):
    process, said = served(home, "--host", "0.0.0.0")
    try:
        password = re.search(r"user unbox, password (\S+)", said)
        port = re.search(r":(\d+)/", said)
        assert password is not None
        assert port is not None
        with httpx.Client(base_url=f"http://127.0.0.1:{port[1]}") as client:
            assert client.get("/gradio_api/info").status_code == 401
            assert client.post("/gradio_api/call/systems", json={"data": []}).status_code == 401
            assert client.get("/picture/0.webp").status_code == 401
            login = {"username": "unbox", "password": password[1]}
            assert client.post("/login", data=login).status_code == 200
            assert client.get("/gradio_api/info").status_code == 200
            assert client.get("/picture/0.webp").status_code == 404
            page = client.get("/").text
            (shown, *_) = re.findall(r"/picture/[0-9a-f]{32}\.webp", page)
            image = client.get(shown)
            assert image.headers["cache-control"].endswith("immutable")
            assert Image.open(io.BytesIO(image.content)).size == (64, 64)
        with httpx.Client(base_url=f"http://127.0.0.1:{port[1]}") as stranger:
            assert stranger.get(shown).status_code == 401
    finally:
        stop(process)


@contextmanager
def ending(process):
    """End a process whatever happens."""
    try:
        yield
    finally:
        stop(process)


@pytest.mark.slow
def test_a_stopped_explorer_keeps_its_labels_and_names_the_line_that_opens_it_again(home):
    def label(said, *text):
        with httpx.Client(base_url=re.search(r"at (http\S+)", said)[1], timeout=120) as http:
            if text:
                call(http, "label_feature", "mid.0/2", *text, "the tests")
            return call(http, "feature", "mid.0/2")["label"]

    process, said = served(home)
    with ending(process):
        assert label(said, "before") == "before"
        process.terminate()
        assert process.wait(timeout=30) == 143
    said = (home / f"{process.pid}.log").read_text()
    assert "Traceback" not in said
    line = re.search(r"Stopped\. Labels are kept; to go on: unbox (.*)", said)[1]
    again, said = started(shlex.split(line), home)
    with ending(again):
        assert label(said) == "before"
        label(said, "")
