"""One planted atlas for all questions."""

import pytest

from tests.atlas.planted import GRIDS, planted_sae, planted_store
from unbox.atlas import Atlas, AtlasPlan, build

PLAN = AtlasPlan(
    top=6, random=5, intervals=4, per_interval=3, decoys=4, caption_images=16, probes=30, places=4000
)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return planted_store(tmp_path_factory.mktemp("planted") / "store")


@pytest.fixture(scope="session")
def saes():
    return {block: planted_sae(block) for block in GRIDS}


@pytest.fixture(scope="session")
def atlas(store, saes, tmp_path_factory):
    out = build(store, saes, tmp_path_factory.mktemp("planted") / "atlas", plan=PLAN, progress=False)
    return Atlas.open(out)
