"""`unbox experiment`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Experiment:
    """Run a sweep of edits: images, figures with intervals, tables, plots and a page.

    Writes a manifest first and one file per image, so that it can be stopped at any moment; the same line
    goes on where it was. `examples/` has worked files.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """TOML file that declares the experiment."""
    out: Path
    """Folder for its results."""
    model: str | None = None
    """Model in place of the file's: a system's name, a Hub id, a folder."""
    saes: str | None = None
    """Folder of autoencoders in place of the file's."""

    def run(self) -> None:
        """Run what is missing, and say where the results are."""
        from dataclasses import replace

        from unbox.experiments.experiment_plan import read_plan
        from unbox.experiments.sweep import run_experiment

        changes = {name: value for name in ("model", "saes") if (value := getattr(self, name)) is not None}
        plan = replace(read_plan(self.file), **changes)
        table = run_experiment(plan, self.out)
        print(f"{len(table)} edited images measured; open {self.out / 'report.html'}")
        print(f"tables: {self.out / 'summary.csv'}, {self.out / 'rows.csv'}")
