"""The four blocks, each ablated in turn: what each adds to the pictures, to be looked at."""

import numpy as np

from unbox.edit import Block
from unbox.experiments.verify.check_outcome import CheckFinding, Picture
from unbox.experiments.verify.subject import Subject, each_prompt
from unbox.json_types import JSON

#: Prompts that are drawn with each block ablated.
ROWS = 2


def ablations(subject: Subject) -> CheckFinding:
    """Each block's updates taken away from every step: the pictures, and how far each moves."""
    figures: dict[str, JSON] = {}
    strips, still = [], []
    edits = [None, *(Block(block).ablate() for block in subject.blocks)]
    names = ["as it is", *(f"without {block}" for block in subject.blocks)]
    for seed, prompt in each_prompt(subject, ROWS):
        made = subject.model.generate(
            prompt, seed=seed, edits=edits, output="np", batch_size=2, **subject.run
        )
        images = subject.model.pipeline.image_processor.numpy_to_pil(np.stack(made))
        moved = [float(np.sqrt(((image - made[0]) ** 2).mean())) for image in made]
        figures[prompt] = dict(zip(subject.blocks, moved[1:], strict=True))
        still += [name for name, far in zip(names[1:], moved[1:], strict=True) if not far > 0]
        shown = [name if i == 0 else f"{name}: {moved[i]:.2g}" for i, name in enumerate(names)]
        strips.append(tuple(Picture(*each) for each in zip(images, shown, strict=True)))
    if still:
        reason = f"pictures {', '.join(dict.fromkeys(still))} are the same as with it: the edit did not act"
        return CheckFinding("fail", reason, figures, tuple(strips))
    reason = "each ablation moves the picture; the numbers are root mean square differences of RGB in 0..1"
    return CheckFinding("pass", reason, figures, tuple(strips))
