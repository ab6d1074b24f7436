"""How much a verification draws."""

from typing import Annotated

from annotated_types import Ge, Le

from unbox.models.sampling_options import RunOptions
from unbox.validation import Seed, Several, Text, Whole, validated

#: What is drawn unless other prompts are given: things, places, light and styles of many kinds.
PROMPTS = (
    "a photo of a red fox in fresh snow, morning light",
    "a bowl of oranges and a glass of water on a wooden table",
    "portrait of an old fisherman, black and white photograph",
    "a crowded street market at night in the rain, neon signs",
    "an oil painting of a sailing ship in a storm",
    "a tabby cat asleep on a blue armchair",
    "a modern kitchen with white walls and large windows",
    "a bicycle leaning against a brick wall covered in ivy",
    "mountains behind a lake at sunset, wide angle",
    "a cartoon robot watering flowers in a garden",
    "a plate of sushi seen from above",
    "a child flying a kite on an empty beach",
    "a stack of old books beside a burning candle",
    "an astronaut on a horse, pencil drawing",
    "a steam train crossing a stone bridge in autumn",
    "a close-up of a dragonfly on a leaf, macro photography",
)


@validated
class VerifyOptions(RunOptions):
    """What is drawn, and how often."""

    prompt: Several[Text] = ()
    """What the image shows, one or several; none: sixteen that come with unbox, or captions of the Shapes
    world."""
    repeats: Annotated[Whole, Ge(1), Le(1000)] = 5
    """Times that an image is timed, after one that is not."""
    seed: Seed = 0
    """Seed of the first prompt's image, the next ones counting up from it."""
