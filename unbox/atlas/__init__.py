"""All that is known of the features of a set of SAEs: built in one pass over a store, asked by queries."""

from typing import TYPE_CHECKING

from unbox.lazy_package import lazy

if TYPE_CHECKING:
    from unbox.atlas.atlas_plan import AtlasPlan
    from unbox.atlas.build import build
    from unbox.atlas.feature_records import (
        Example,
        Facts,
        Filter,
        Histogram,
        KeptLabel,
        Label,
        Life,
        Related,
        SAEInfo,
    )
    from unbox.atlas.labels import set_label
    from unbox.atlas.query import Atlas

lazy(__name__)
