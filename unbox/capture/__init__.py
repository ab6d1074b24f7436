"""Capture: record what blocks add, in memory (`record`) or into an activation store (`collect`)."""

from typing import TYPE_CHECKING

from unbox.lazy_package import lazy

if TYPE_CHECKING:
    from unbox.capture.collect import collect
    from unbox.capture.collect_settings import CollectSettings
    from unbox.capture.estimate import Estimate, estimate
    from unbox.capture.prompt_reader import read_prompts
    from unbox.capture.stream import Stream, Streams
    from unbox.capture.tape import Tape, record

lazy(__name__)
