"""`unbox experiment`."""

from dataclasses import replace
from pathlib import Path

from tyro.conf import Positional

from unbox.cli.model_options import NO_MODEL, Group, Mismatch, ModelOptions
from unbox.validation import FilePath, Text, validated


@validated
class ExperimentCommand:
    """Run a sweep of edits: images, figures with intervals, tables, plots and a page.

    Writes a manifest first and one file per image, so that it can be stopped at any moment; the same line
    goes on where it was. `examples/` has worked files. Model and autoencoders are the file's unless they
    are named here; the other options of the model hold for either.
    """

    file: Positional[FilePath]
    """TOML file that declares the experiment."""
    out: FilePath
    """Folder for its results."""
    saes: Text | None = None
    """Folder of SAEs in place of the file's."""
    model_mismatch: Mismatch = "warn"
    model: Group[ModelOptions] = NO_MODEL

    def run(self) -> None:
        from unbox.experiments.experiment_plan import read_plan
        from unbox.experiments.sweep import run_experiment
        from unbox.model_mismatch import check_same_model
        from unbox.run_folder import run_folder
        from unbox.sae import load_saes

        plan = read_plan(self.file)
        options = self.model if self.model.model else replace(self.model, model=plan.model)
        saes = plan.saes if self.saes is None else Path(self.saes)
        plan = replace(plan, model=options.model, saes=saes)
        with run_folder(self.out, "experiment"):
            model = options.load()
            if plan.saes is not None:
                check_same_model(load_saes(plan.saes), model=model, policy=self.model_mismatch)
            table = run_experiment(plan, self.out, model)
        print(f"{len(table)} edited images measured; open {self.out / 'report.html'}")
        print(f"tables: {self.out / 'summary.csv'}, {self.out / 'rows.csv'}")
