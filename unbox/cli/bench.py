"""`unbox bench shapes` and `unbox bench riebench`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shapes:
    """Do the features mean and cause what they seem to? The ground-truth benchmark of the Shapes world.

    Per factor value: the feature that tells it best, whether adding it makes the value appear and ablating it
    makes it go, at what cost to the other factors; edits of nine kinds by transport; which block owns what.
    SAEs beside untrained SAEs, neurons, principal components, mean-difference steering and random features.
    Stopped at any moment, the same line goes on where it was.
    """

    saes: Path
    """Folder of the autoencoders to test."""
    out: Path
    """Folder for the results."""
    model: str = "shapes-turbo"
    """System's name or folder of a model that draws the Shapes world."""
    steps: int = 1
    """Sampling steps of every image."""
    prompts: int = 800
    """Held-out captions whose updates are probed."""
    trial_cases: int = 10
    """Images on which each edit's blocks, spread, size and strength are chosen."""
    test_cases: int = 20
    """Other images on which each edit is measured."""
    pairs: int = 12
    """Pairs of captions of each kind of edit."""
    values: tuple[str, ...] = ()
    """Factor values to edit, as colour=red; all of them where none is named. Runs over some of them fill the
    folder of a run over all."""
    batch_size: int = 16
    """Images generated together."""
    seed: int = 0
    """Seed of captions, images and controls."""

    def run(self) -> None:
        """Run what is missing, and say what came out."""
        from unbox.errors import UnboxError
        from unbox.ground_truth.bench.benchmark import BenchSettings, bench_shapes
        from unbox.ground_truth.bench.probing import VALUES
        from unbox.ground_truth.bench.report import verdict
        from unbox.models import load
        from unbox.sae import load_saes

        named = tuple((factor, value) for factor, _, value in (v.partition("=") for v in self.values))
        unknown = [v for v in named if v not in VALUES]
        if unknown:
            known = ", ".join("=".join(v) for v in VALUES)
            raise UnboxError(f"no value '{'='.join(unknown[0])}' in the Shapes world; there are {known}")
        same = ("steps", "prompts", "trial_cases", "test_cases", "pairs", "batch_size", "seed")
        settings = BenchSettings(values=named or VALUES, **{name: getattr(self, name) for name in same})
        results = bench_shapes(load(self.model), load_saes(self.saes), self.out, settings)
        told = verdict(results)
        print(
            f"{told['reliable']} values are drawn reliably: {told['told']:.0%} have a telling feature, "
            f"{told['flips']:.0%} are turned on by features, for {told['still']:.0%} random ones do nothing"
        )
        for method, figures in told["success"].items():
            print(f"  {method:10} success {figures['success']:.2f}, collateral {figures['collateral']:.2f}")
        print(f"open {self.out / 'report.html'}")


@dataclass(frozen=True)
class Riebench:
    """RIEBench: edits between pairs of prompts by features, beside neurons, steering and random features.

    The published protocol (SDXL Turbo, four steps, guidance 0, seed 42) on any file in its format. An example
    that cannot be run is reported, never dropped. Stopped at any moment, the same line goes on.
    """

    data: Path
    """JSON list of examples: id, editing_type_id, original_prompt, editing_prompt; changes in brackets."""
    saes: Path
    """Folder of the autoencoders to test."""
    out: Path
    """Folder for the results."""
    model: str = "sdxl-turbo"
    """System's name, Hub id or folder."""
    masks: Path | None = None
    """Folder of masks, ID_original.png and ID_editing.png; without it they come from cross-attention."""
    limit: int | None = None
    """Take the first examples only."""
    steps: int = 4
    """Sampling steps."""
    guidance: float = 0.0
    """Guidance scale."""
    seed: int = 42
    """Seed of every image."""
    counts: tuple[int, ...] = (80, 160, 320, 640)
    """Numbers of features carried."""
    metrics: tuple[str, ...] = ("structure",)
    """Distances to the original and to the edited prompt's image: structure, pixels, lpips, clip."""
    clip: str | None = None
    """CLIP model for the metric clip: a Hub id or a folder."""

    def run(self) -> None:
        """Run what is missing, and print the table."""
        from unbox.experiments.riebench import RiebenchSettings, bench_riebench, markdown, read_examples
        from unbox.models import load
        from unbox.sae import load_saes

        same = ("steps", "guidance", "seed", "counts", "metrics", "clip")
        masks = None if self.masks is None else str(self.masks)
        settings = RiebenchSettings(masks=masks, **{name: getattr(self, name) for name in same})
        examples = read_examples(self.data, self.limit)
        rows = bench_riebench(load(self.model), load_saes(self.saes), examples, self.out, settings)
        print(markdown(rows))
        print(f"rows and images: {self.out}")
