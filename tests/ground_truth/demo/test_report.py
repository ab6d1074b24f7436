"""The page from made-up findings: complete, escaped, and self-contained."""

from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from unbox.ground_truth.demo.collect_and_fit import packed, unpacked
from unbox.ground_truth.demo.demo_plan import DemoPlan
from unbox.ground_truth.demo.report import Findings, owners, write_report
from unbox.ground_truth.demo.top_pictures import heated
from unbox.ground_truth.effects import Cases
from unbox.shapes import FACTORS, Scene, prompts, render

BLOCKS = ("down.2.1", "mid.0", "up.1.2")


def outcome(hits, n=50, kept=0.9):
    return {"hits": hits, "n": n, "kept": kept, "artifacts": 7}


@pytest.fixture
def findings():
    drawn = prompts(30, seed=1, pairs=0)
    scenes = [Scene.from_json(p.meta["scene"]) for p in drawn]
    images = tuple(Image.fromarray(render(scene)) for scene in scenes)
    read = [scene.factors() for scene in scenes]
    read[0] = {**read[0], "colour": "<b>"}
    cases = unpacked(packed(Cases(tuple(drawn), tuple(range(30)), images, tuple(read))))
    pictures = cases.images
    shown = {"caption": "<script>alert(1)</script>"} | dict.fromkeys(
        ("before", "after", "control"), pictures[0]
    )
    edits = [
        {"factor": f, "value": v, "features": ["mid.0/1", "up.1.2/7"], "strength": 8.0, "pictures": [shown]}
        | {"edited": outcome(hits), "control": outcome(control)}
        for f, v, hits, control in (
            ("colour", "red", 40, 2),
            ("shape", "star", 20, 0),
            ("light", "dim", 50, 30),
        )
    ]
    example = {"plain": pictures[1], "heat": pictures[2], "caption": "a & b"}
    features = [
        {
            "name": "mid.0/1",
            "factor": "colour",
            "value": "red",
            "auroc": 0.91,
            "active": 0.01,
            "pictures": [example],
        }
    ]
    table = {b: dict.fromkeys(FACTORS, 0.5 + 0.1 * i) for i, b in enumerate(BLOCKS)}
    rows = [
        {
            "block": b,
            "positions": "8x8",
            "width": 128,
            "explained": 0.9,
            "active": 8.0,
            "dead": 0.1,
            "deviation": 9.0,
        }
        for b in BLOCKS
    ]
    ablations = [
        {"block": b, "change": 0.1 * i, "factors": dict.fromkeys(FACTORS, 0.1 * i), "pictures": [pictures[i]]}
        for i, b in enumerate((*BLOCKS, "up.1.0"))
    ]
    found = {"owners": table, "features": features}
    return Findings(
        DemoPlan(),
        "shapes-turbo",
        {"hash": "x"},
        cases,
        ablations,
        rows,
        found,
        edits,
        [],
    )


class Reader(HTMLParser):
    """Counts tags and collects where they point."""

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.depth = [], [], 0

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]


def test_the_page_is_whole_escaped_and_alone(findings, tmp_path):
    path = write_report(tmp_path / "report.html", findings, "unbox generate --x '<y>'")
    text = path.read_text()
    reader = Reader()
    reader.feed(text)
    assert "script" not in reader.tags
    assert "&lt;script&gt;" in text
    assert "&lt;y&gt;" in text
    assert all(link.startswith(("data:image/webp;base64,", "#")) for link in reader.links)
    ids = {link[1:] for link in reader.links if link.startswith("#")}
    assert all(f'id="{name}"' in text for name in ids)
    assert "&#10007; colour" in text
    assert "80% <span" in text  # 40 of 50
    # 7 of 50; Wilson's interval worked out by hand: (0.14 + z^2/100 -+ ...) / (1 + z^2/50)
    assert text.count("14% [7%, 26%] with these features") == 3
    assert "1 of 3" in text  # only red succeeds while its control does not


def test_only_edits_beyond_their_control_count(findings):
    assert [(e["factor"], e["value"]) for e in findings.working()] == [("colour", "red")]


def test_the_best_block_is_framed():
    table = {b: dict.fromkeys(FACTORS, 0.5) for b in BLOCKS}
    table["mid.0"]["shape"] = 0.9
    told = owners(table)
    assert ("shape", "mid.0", 0.9) in told["best"]
    framed = [
        (row["block"], i) for row in told["owners"] for i, cell in enumerate(row["cells"]) if cell["best"]
    ]
    assert ("mid.0", list(FACTORS).index("shape")) in framed
    assert len(framed) == len(FACTORS)


def test_heat_lies_where_the_map_is():
    grey = Image.new("RGB", (64, 64), (90, 90, 90))
    heat = np.zeros((8, 8))
    heat[:4] = 1
    shown = np.asarray(heated(grey, heat, 1.0)).astype(int)
    assert (shown[:20, :, 0] - shown[:20, :, 2]).min() > 100
    assert (shown[44:] == 90).all()
