"""`unbox demo`."""

from pathlib import Path

from unbox.cli.model_options import Group, ModelOptions
from unbox.ground_truth.demo.demo_plan import DemoPlan
from unbox.validation import FilePath, validated


@validated
class DemoCommand:
    """Open the bundled model: record it, fit autoencoders to every block, find features, edit with them.

    Writes OUT/report.html, one file with all its pictures. Every stage is kept in OUT/stages: stopped at any
    moment, the same line goes on where it was. Any model that draws the Shapes world will do.
    """

    out: FilePath = Path("demo")
    """Folder to work in."""
    plan: Group[DemoPlan] = DemoPlan()
    model: Group[ModelOptions] = ModelOptions()

    def run(self) -> None:
        from unbox.ground_truth.demo.run_demo import run
        from unbox.run_folder import run_folder

        with run_folder(self.out, "demo"):
            finished = run(self.model.load(), self.plan, self.out, options=self.model.line())
        print(finished.summary())
