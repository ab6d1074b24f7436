"""`unbox demo`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Demo:
    """Open the bundled model: record it, fit autoencoders to every block, find features, edit with them.

    Writes OUT/report.html, one file with all its pictures. Every stage is kept in OUT/stages: stopped at any
    moment, the same line goes on where it was.
    """

    out: Path = Path("demo")
    """Folder to work in."""
    model: str = "shapes-turbo"
    """System's name or folder of a model that draws the Shapes world."""
    prompts: int = 2000
    """Pictures collected for training the autoencoders."""
    heldout: int = 400
    """Pictures collected for the held-out figures."""
    steps: int = 1
    """Sampling steps of every picture."""
    guidance: float | None = None
    """Classifier-free guidance; the system's own if not given."""
    latents: int = 512
    """Latents of each autoencoder."""
    k: int = 8
    """Active latents at each position."""
    tokens: int = 1_000_000
    """Vectors that each autoencoder is trained on."""
    seed: int = 0
    """Seed of everything."""

    def run(self) -> None:
        """Run the stages; say what was found, what to open and what to try."""
        from unbox.ground_truth.demo.demo_plan import DemoPlan
        from unbox.ground_truth.demo.run_demo import run

        settings = {name: value for name, value in vars(self).items() if name != "out"}
        finished = run(DemoPlan(**settings), self.out)
        print(finished.summary())
