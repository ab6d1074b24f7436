"""A burst of runs and questions: questions are all answered, runs are made or told when to try again."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import httpx

from unbox.explorer.queue_limits import RUNS

BURST = 100


def ask(http: httpx.Client, ids: dict[str, int], name: str, data: list, visitor: str) -> tuple[str, object]:
    """Join the queue as a visitor and read the answer: (what came of it, what was answered)."""
    body = {"data": data, "fn_index": ids[name], "session_hash": visitor}
    joined = http.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return "refused", joined.json()["detail"]
    event = joined.json()["event_id"]
    with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": visitor}) as stream:
        for line in stream.iter_lines():
            message = json.loads(line[6:]) if line.startswith("data: ") else {}
            if message.get("msg") == "process_completed" and message.get("event_id") == event:
                return "answered" if message["success"] else "failed", message["output"]
    return "lost", None


def test_all_questions_are_answered_and_runs_that_cannot_wait_are_told_when(url):
    with httpx.Client(base_url=url, timeout=300, limits=httpx.Limits(max_connections=250)) as http:
        config = http.get("/config").json()
        ids = {each["api_name"]: each["id"] for each in config["dependencies"] if each["api_name"]}
        with ThreadPoolExecutor(2 * BURST) as threads:
            runs = [
                threads.submit(ask, http, ids, "generate", ["a red cat", 1000 + i, 0, "", []], f"run{i}")
                for i in range(BURST)
            ]
            questions = [
                threads.submit(ask, http, ids, "search_features", ["red", "words", "", 5], f"question{i}")
                for i in range(BURST)
            ]
            asked = [each.result() for each in questions]
            made = [each.result() for each in runs]
    assert [kind for kind, _ in asked] == ["answered"] * BURST
    kinds = [kind for kind, _ in made]
    assert set(kinds) <= {"answered", "refused"}
    assert kinds.count("answered") >= RUNS
    for kind, answer in made:
        if kind == "refused":
            assert re.search(r"try again in about \d+ s", str(answer)), answer
    seeds = {answer["data"][0]["recipe"]["seed"] for kind, answer in made if kind == "answered"}
    assert len(seeds) == kinds.count("answered")  # each run is its own
