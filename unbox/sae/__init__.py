"""Sparse autoencoders: fitting them to any rows, measuring them, keeping them. Knows nothing of diffusers.

sae = fit(rows, k=10, latents=5120)           one SAE, in memory
train(store, "saes/", [Spec(k=10), ...])      many, on one pass, resumable
evaluate(sae, rows)                           figures on held-out rows
"""

from typing import TYPE_CHECKING

from unbox.lazy_package import lazy

if TYPE_CHECKING:
    from unbox.sae.codes import Codes
    from unbox.sae.crosscoder import Crosscoder
    from unbox.sae.direction_set import NamedDirection, direction_set, directions_of
    from unbox.sae.evaluate import Figures, evaluate
    from unbox.sae.fit import fit
    from unbox.sae.model import SAE, Stats, load_saes
    from unbox.sae.plan import Plan, Spec, read_toml, specs
    from unbox.sae.row_source import ArrayRows, RowSource
    from unbox.sae.side_by_side import side_by_side
    from unbox.sae.torch_datasets import ImageUpdates, ShuffledRows
    from unbox.sae.train import train
    from unbox.sae.train_transcoder import train_transcoder
    from unbox.sae.transcoder import Transcoder
    from unbox.sae.variants import VARIANTS

lazy(__name__)
