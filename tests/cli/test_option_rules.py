"""Options that break their rule: one line that names option, value and rule, before anything is loaded."""

import pytest

from unbox.cli.main import main

COLLECT = "collect --prompts shapes --store s"
GENERATE = "generate --prompt cat"

REFUSED = {
    f"{COLLECT} --limit 0": "--limit = 0: should be at least 1",
    f"{COLLECT} --limit -1": "--limit = -1: should be at least 1",
    f"{COLLECT} --gpus 0 --dry-run": "--gpus = 0: should be at least 1",
    f"{COLLECT} --rank -1": "--rank = -1: should be at least 0",
    f"{COLLECT} --batch-size 0": "--batch-size = 0: should be at least 1",
    f"{COLLECT} --seed {2**70}": "should be less than 18,446,744,073,709,551,616",
    f"{COLLECT} --thumbnail -1": "--thumbnail = -1: should be at least 1",
    f"{COLLECT} --positions 0": "--positions = 0: should be at least 1",
    f"{COLLECT} --shard-samples 1000000000": "--shard-samples = 1000000000: should be at most 1,000,000",
    f"{COLLECT} --keep-steps -1": "--keep-steps = -1: should be at least 0",
    f"{COLLECT} --blocks": "--blocks = (): should have at least 1",
    f"{COLLECT} --blocks middle": "--blocks = 'middle': should be",
    f"{COLLECT} --guidance nan": "--guidance = nan: should be a finite number",
    f"{COLLECT} --guidance 1e30": "--guidance = 1e+30: should be at most 1,000",
    f"{COLLECT} --height 1000000000": "--height = 1000000000: should be at most 16,384",
    f"{GENERATE} --height -8": "--height = -8: should be at least 8",
    f"{GENERATE} --width 60": "--width = 60: should be a multiple of 8",
    f"{GENERATE} --batch-size 1000000000": "--batch-size = 1000000000: should be at most 65,536",
    f"{GENERATE} --count 0": "--count = 0: should be at least 1",
    f"{GENERATE} --count 1000000000": "a list of 1,000,000,000 images would take 1 TB of memory;",
    f"{GENERATE} --count 60000 --batch-size 60000 --height 1024 --width 1024": (
        "a batch of 60,000 images of 1,024 x 1,024 pixels would take 755 GB of memory; the limit is"
    ),
    f"{GENERATE} --steps 0": "--steps = 0: should be at least 1",
    f"{GENERATE} --guidance-rescale -5": "--guidance-rescale = -5.0: should be at least 0",
    f"{GENERATE} --image x.png --strength 1.5": "--strength = 1.5: should be at most 1",
    f"{GENERATE} --aspect nan:1": "--aspect = 'nan:1': should be WIDTH:HEIGHT like 16:9",
    f"{GENERATE} --aspect 0:0": "--aspect = '0:0': should be WIDTH:HEIGHT like 16:9",
    f"{GENERATE} --aspect 1e999:1": "--aspect = '1e999:1': should be WIDTH:HEIGHT like 16:9",
    f"{GENERATE} --crop -1 0": "--crop = -1: should be at least 0",
    f"{GENERATE} --aesthetic inf": "--aesthetic = inf: should be a finite number",
    "invert x.png --start -1": "--start = -1: should be at least 0",
    "invert x.png --seed -1": "--seed = -1: should be at least 0",
    "invert x.png --saes s --limit 0": "--limit = 0: should be at least 1",
    "evaluate --saes s --store s --images -1": "--images = -1: should be at least 0",
    "evaluate --saes s --store s --limit 0": "--limit = 0: should be at least 1",
    "store subset s --out t --samples 5 2": "--samples = (5, 2): should be the first and the one after",
    "store subset s --out t --samples 5 5": "--samples = (5, 5): should be the first and the one after",
    "store subset s --out t --samples -1 2": "--samples = -1: should be at least 0",
    "store subset s --out t --blocks": "--blocks = (): should have at least 1",
    "store subset s --out t --keep-steps": "--keep-steps = (): should have at least 1",
    "features red --atlas a --density 0.5 0.1": "--density = (0.5, 0.1): should be the smaller share",
    "features red --atlas a --density -1 2": "--density = -1.0: should be at least 0",
    "features red --atlas a --limit 0": "--limit = 0: should be at least 1",
    "features red --atlas a --step 5000": "--step = 5000: should be less than 1,000",
    "label --atlas a --endpoint file:///etc/passwd --endpoint-model m": (
        "--endpoint = 'file:///etc/passwd': should be an address like http://localhost:8000/v1"
    ),
    "label --atlas a --endpoint http://h/v1 --endpoint-model m --limit -1": "--limit = -1: should be",
    "app --port 99999999": "--port = 99999999: should be less than 65,536",
    "app --port 0": "--port = 0: should be at least 1",
    "bench riebench --data d --saes s --out o --limit 0": "--limit = 0: should be at least 1",
    "recipe shapes --out o --scenes 3": "--scenes = 3: should be at least 16",
    "recipe shapes --out o --base-minutes 0": "--base-minutes = 0.0: should be more than 0",
    "recipe real-size --out o --seed -1": "--seed = -1: should be at least 0",
    "train --store s --out o --held-out 1": "--held-out = 1.0: should be less than 1",
    "train --store s --out o --held-out nan": "--held-out = nan: should be a finite number",
    "sae push s ../x": "repo = '../x': should be owner/name of a repository on the Hub",
    "sae pull a/b/c --out o": "repo = 'a/b/c': should be owner/name of a repository on the Hub",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_breaks_a_rule_is_refused_in_a_line(line, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNBOX_MEMORY_LIMIT", "100GB")
    assert main(line.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("unbox: ")
    assert REFUSED[line] in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_value_of_another_type_is_told_without_the_rules_types(capsys):
    for line in (f"{GENERATE} --steps x", f"{GENERATE} --crop x 1", "store subset s --out t --samples x 1"):
        with pytest.raises(SystemExit) as stop:
            main(line.split())
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert "Error parsing --" in said
        assert "Annotated" not in said
