"""docs/leaderboard.md from runs of `unbox bench shapes`: python benchmarks/leaderboard.py RUN [RUN ...]"""

import argparse
from pathlib import Path

from activation_store.files import write_text
from unbox.ground_truth.bench.score import ScoredRun, leaderboard

PAGE = Path(__file__).parents[1] / "docs" / "leaderboard.md"
MARK = "<!-- made by benchmarks/leaderboard.py; do not edit below -->"


def main() -> None:
    """Put the table of the runs below the page's mark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders that `unbox bench shapes` has finished")
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    head = asked.page.read_text("utf-8").partition(MARK)[0]
    write_text(asked.page, f"{head}{MARK}\n\n{leaderboard([ScoredRun.read(run) for run in asked.runs])}")


if __name__ == "__main__":
    main()
