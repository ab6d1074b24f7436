"""`unbox bench shapes`, `unbox bench erasure` and `unbox bench riebench`."""

from unbox.cli.model_options import Group, Mismatch, ModelOptions
from unbox.experiments.riebench.riebench_settings import RiebenchSettings
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.ground_truth.bench.erasure_settings import ErasureSettings
from unbox.validation import Count, FilePath, Processes, validated


@validated
class BenchShapesCommand:
    """Do the features mean and cause what they seem to? The ground-truth benchmark of the Shapes world.

    Per factor value: the feature that tells it best, whether adding it makes the value appear and ablating it
    makes it go, at what cost to the other factors; edits of nine kinds by transport; which block owns what.
    SAEs beside untrained SAEs, neurons, principal components, mean-difference steering and random features.
    The model must draw the Shapes world. Stopped at any moment, the same line goes on where it was.
    """

    saes: FilePath
    """Folder of SAEs to test, of `unbox train` or in any layout that `unbox sae import` reads."""
    out: FilePath
    """Folder for the results."""
    settings: Group[BenchSettings]
    processes: Processes = 1
    """Processes that share the values, each with the model: on the device, of several GPUs in turn."""
    model: Group[ModelOptions] = ModelOptions()
    model_mismatch: Mismatch = "warn"

    def run(self) -> None:
        from unbox.ground_truth.bench.benchmark import bench_shapes
        from unbox.ground_truth.bench.report import verdict
        from unbox.model_mismatch import check_same_model
        from unbox.run_folder import run_folder
        from unbox.sae.interop import load_any

        saes = load_any(self.saes)
        with run_folder(self.out, "bench shapes"):
            model = self.model.load()
            check_same_model(saes, model=model, policy=self.model_mismatch)
            results = bench_shapes(
                model,
                saes,
                self.out,
                self.settings,
                processes=self.processes,
                load=self.model.load_in_process,
            )
        found = verdict(results)
        print(
            f"{found['reliable']} values are drawn reliably: {found['telling']:.0%} have a telling feature, "
            f"{found['flips']:.0%} are turned on by features, for {found['still']:.0%} random ones do nothing"
        )
        for method, figures in found["success"].items():
            print(
                f"  {method:10} success {figures['success']:.2f}, collateral {figures['collateral']:.2f}, "
                f"artifacts {figures['artifacts']:.2f}"
            )
        print("MCC " + ", ".join(f"{name} {value:.3f}" for name, value in found["mcc"].items()))
        print(f"open {self.out / 'report.html'}")


@validated
class BenchErasureCommand:
    """Is a value gone, is the rest kept, and is the picture spoilt? Ways to erase, in the Shapes world.

    For every factor value SAeUron's rule, our own, swap, steering and negative guidance, beside random
    features: UA (the value is gone), IRA (other values of the factor stay), CRA (other factors stay) and the
    share of artifacts, by a critic that judges nothing else. Options are chosen on some pictures, figures are
    of others. The model must draw the Shapes world. Stopped at any moment, the same line goes on where it
    was.
    """

    saes: FilePath
    """Folder of SAEs to test."""
    out: FilePath
    """Folder for the results."""
    settings: Group[ErasureSettings] = ErasureSettings()
    processes: Processes = 1
    """Processes that share the values, each with the model: on the device, of several GPUs in turn."""
    model: Group[ModelOptions] = ModelOptions()
    model_mismatch: Mismatch = "warn"

    def run(self) -> None:
        from unbox.ground_truth.bench.erasure_benchmark import bench_erasure, markdown
        from unbox.model_mismatch import check_same_model
        from unbox.run_folder import run_folder
        from unbox.sae import load_saes

        saes = load_saes(self.saes)
        with run_folder(self.out, "bench erasure"):
            model = self.model.load()
            check_same_model(saes, model=model, policy=self.model_mismatch)
            rows = bench_erasure(
                model,
                saes,
                self.out,
                self.settings,
                processes=self.processes,
                load=self.model.load_in_process,
            )
        print(markdown(rows).partition("\n\n")[0])
        print(f"every value: {self.out / 'erasure.md'}, {self.out / 'rows.csv'}")


@validated
class BenchRiebenchCommand:
    """RIEBench: edits between pairs of prompts by features, beside neurons, steering and random features.

    The published protocol (SDXL Turbo, four steps, guidance 0, seed 42; masks from --masks) on any file in
    its format; what a run does otherwise stands in its report. An example that cannot be run is reported,
    never dropped. Stopped at any moment, the same line goes on.
    """

    data: FilePath
    """JSON list of examples: id, editing_type_id, original_prompt, editing_prompt; changes in brackets."""
    saes: FilePath
    """Folder of SAEs to test."""
    out: FilePath
    """Folder for the results."""
    limit: Count | None = None
    """At most so many examples, the first ones; None: all."""
    settings: Group[RiebenchSettings] = RiebenchSettings()
    model: Group[ModelOptions] = ModelOptions("sdxl-turbo")
    model_mismatch: Mismatch = "warn"

    def run(self) -> None:
        from unbox.experiments.riebench.examples import read_examples
        from unbox.experiments.riebench.report import markdown
        from unbox.experiments.riebench.run_riebench import bench_riebench
        from unbox.model_mismatch import check_same_model
        from unbox.run_folder import run_folder
        from unbox.sae import load_saes

        examples, saes = read_examples(self.data, self.limit), load_saes(self.saes)
        with run_folder(self.out, "bench riebench"):
            model = self.model.load()
            check_same_model(saes, model=model, policy=self.model_mismatch)
            rows = bench_riebench(model, saes, examples, self.out, self.settings)
        print(markdown(rows, self.settings))
        print(f"rows and images: {self.out}")
