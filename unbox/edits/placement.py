"""Dictionaries of edits where a model computes: each copied there once for all edits and calls.

A copy lives as long as the UNet that it was made for and the dictionary that it is of: it is freed when
either is, when the dictionary's tensors have become others, and beyond `KEPT` bytes of a UNet's copies, the
one unused for longest first. A run holds what it uses until it ends.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from unbox.edits.terms import TensorDictionary

#: Bytes of copies that a UNet keeps beyond those of the last run: forty SAEs of 5,120 latents of 1,280.
KEPT = 2 << 30

#: What tells that a dictionary's tensors are those that were copied: where each is, and how often changed.
State = tuple[tuple[int, int], ...]
#: A dictionary, by where it is in memory, and a device.
Key = tuple[int, torch.device]


@dataclass(frozen=True)
class _Copy:
    of: ref[TensorDictionary]
    state: State
    copy: TensorDictionary
    size: int


class DictionaryCopies:
    """Copies of dictionaries on the devices of one UNet."""

    def __init__(self) -> None:
        self._copies: dict[Key, _Copy] = {}

    def on(self, dictionary: TensorDictionary, device: torch.device) -> TensorDictionary:
        """The dictionary on a device; itself where it is there already."""
        if all(tensor.device == device for tensor in _tensors(dictionary)):
            return dictionary
        key, state = (id(dictionary), device), _state(dictionary)
        kept = self._copies.pop(key, None)
        if kept is None or kept.of() is not dictionary or kept.state != state:
            made = copy(dictionary).to(device=device)
            size = sum(each.nbytes for each in _tensors(made))
            kept = _Copy(ref(dictionary, partial(_forget, self._copies, key)), state, made, size)
        self._copies[key] = kept  # the last used comes last
        while len(self._copies) > 1 and sum(each.size for each in self._copies.values()) > KEPT:
            del self._copies[next(iter(self._copies))]
        return kept.copy


def _forget(copies: dict[Key, _Copy], key: Key, gone: ref[TensorDictionary]) -> None:
    if key in copies and copies[key].of is gone:
        del copies[key]


_OF_UNETS: "WeakKeyDictionary[torch.nn.Module, DictionaryCopies]" = WeakKeyDictionary()


def copies_of(unet: torch.nn.Module) -> DictionaryCopies:
    """The copies that a UNet keeps."""
    return _OF_UNETS.setdefault(unet, DictionaryCopies())


def _tensors(dictionary: TensorDictionary) -> Iterator[Tensor]:
    if isinstance(dictionary, torch.nn.Module):
        yield from dictionary.parameters()
        yield from dictionary.buffers()
    else:
        yield from (value for value in vars(dictionary).values() if isinstance(value, Tensor))


def _state(dictionary: TensorDictionary) -> State:
    return tuple(
        (each.untyped_storage()._cdata, 0 if each.is_inference() else each._version)
        for each in _tensors(dictionary)
    )
