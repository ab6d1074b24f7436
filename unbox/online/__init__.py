"""SAEs trained straight from generation, without a store: rows are used as a model makes them.

train_online(model, prompts, "saes/", plan, images=OnlineImages())
estimate_online(model, prompts, plan, images=OnlineImages())      what that would take, and a store first
"""

from typing import TYPE_CHECKING

from unbox.lazy_package import lazy

if TYPE_CHECKING:
    from unbox.online.online_estimate import OnlineEstimate, estimate_online
    from unbox.online.online_images import OnlineImages, read_images
    from unbox.online.train_online import train_online

lazy(__name__)
