"""How strange a picture is to a critic of its world, beside unedited ones."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from unbox.explorer.session import ExplorerSession


@dataclass(frozen=True)
class ArtifactFigure:
    """A picture's strangeness (-log of the probability that the critic gives to what it reads), and that
    which 5 % of unedited pictures pass."""

    strangeness: float
    usual: float

    @property
    def note(self) -> str:
        """In a line."""
        verdict = "an artifact" if self.strangeness > self.usual else "no artifact"
        return (f"{verdict}: strangeness {self.strangeness:.2g} to a second critic; "
                f"95 % of unedited pictures have {self.usual:.2g} at most")  # fmt: skip


def artifact_figure(session: ExplorerSession, image: Image.Image) -> ArtifactFigure | None:
    """None where no critic knows the pictures, or what is usual among them is not known."""
    critic, usual = session.critic, session.usual_strangeness
    if critic is None or critic.strangeness is None or usual is None:
        return None
    return ArtifactFigure(float(np.asarray(critic.strangeness([image]))[0]), usual)
