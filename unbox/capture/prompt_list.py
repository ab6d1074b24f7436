"""The prompts of a run in memory, to be drawn in any order: their texts, end to end, and nothing else."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator

from activation_store import Sample
from activation_store.samples import prompts_digest
from unbox.models.seeds import image_seed


class PromptList:
    """Prompts and seeds of numbered images. Memory: a text's UTF-8 bytes and 8 more for each image.

    Facts of prompts are not kept; the digest counts them.
    """

    def __init__(self, samples: Iterable[Sample], seed: int) -> None:
        """`samples`: numbered from 0, with the seeds that follow from the run's."""
        self._seed, self._ends, texts, digest = seed, array("q"), bytearray(), hashlib.sha256()
        for sample in samples:
            digest.update(prompts_digest([sample]).encode())
            texts += sample.prompt.encode()
            self._ends.append(len(texts))
        self._texts = bytes(texts)
        self.digest = digest.hexdigest()
        """SHA-256 of prompts, seeds and facts."""

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Sample:
        """The image of a number, without the facts of its prompt."""
        start = self._ends[index - 1] if index else 0
        text = self._texts[start : self._ends[index]].decode()
        return Sample(index, text, image_seed(self._seed, index))

    def __iter__(self) -> Iterator[Sample]:
        return map(self.__getitem__, range(len(self)))

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return len(self._texts) + self._ends.itemsize * len(self._ends)
