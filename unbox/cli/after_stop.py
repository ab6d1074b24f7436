"""What a stopped command has kept, and the line that goes on with it. `docs/reliability.md` shows the table,
and `tests/cli/test_stops.py` stops every command and types its line again."""

import os
import shlex
from collections.abc import Sequence

#: Command -> what a stop at any moment keeps. A command that is not here leaves nothing until it has ended.
SENTENCES = {
    "demo": "finished stages, shards and checkpoints are kept",
    "collect": "finished images are kept",
    "store repair": "files that were set aside stay in damaged/",
    "store upgrade": "what was upgraded is kept",
    "store merge": "finished shards are kept",
    "store subset": "finished shards are kept",
    "store add-blocks": "finished images are kept",
    "store push": "shards that the Hub has received are kept there",
    "store pull": "finished shards are kept",
    "train": "the steps so far are kept",
    "evaluate": "figures of finished SAEs are kept",
    "atlas": "what was counted is kept",
    "label": "finished labels are kept",
    "app": "labels are kept",
    "generate": "finished images are kept",
    "diff": "finished images, the steps of training and figures of finished blocks are kept",
    "experiment": "finished images and figures are kept",
    "bench shapes": "finished measurements are kept",
    "bench erasure": "finished measurements are kept",
    "bench riebench": "finished examples are kept",
    "recipe shapes": "the steps so far are kept",
    "recipe sdxl": "encoded images and the steps so far are kept",
    "recipe turbo": "encoded images and the steps so far are kept",
    "recipe lightning": "encoded images and the steps so far are kept",
    "recipe novelai": "encoded images and the steps so far are kept",
    "recipe ncp": "encoded images and the steps so far are kept",
    "recipe distar": "encoded images and the steps so far are kept",
    "sae import": "finished SAEs are kept",
    "sae export": "finished SAEs are kept",
    "sae push": "files that the Hub has received are kept there",
    "sae pull": "downloaded files are kept",
}


def after_stop(command: str, writes: bool, typed: Sequence[str]) -> str:
    """The sentence for a stopped command; `writes`: False where its options have it keep nothing."""
    line = shlex.join(["unbox", *typed])
    if os.environ.get("WORLD_SIZE", "") not in ("", "0", "1"):
        line = f"the line that started all {os.environ['WORLD_SIZE']} processes"
    if writes and (sentence := SENTENCES.get(command)):
        return f"{sentence[0].upper()}{sentence[1:]}; to go on: {line}"
    return f"Nothing was changed; to begin anew: {line}"
