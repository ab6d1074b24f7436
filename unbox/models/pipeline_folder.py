"""A pipeline of a diffusers folder, each component in the precision that its folder has."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors import SafetensorError

from unbox.errors import UnboxError
from unbox.models.pipeline_files import paths_in, pipeline_files
from unbox.models.pipeline_kind import check_index
from unbox.models.systems import PIPELINE_FILE
from unbox.text_files import read_json_object


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Say of weights that are cut short or not weights which they are and what to do."""
    try:
        yield
    except UnboxError:
        raise
    except ImportError as error:
        raise UnboxError(f"{path}: {' '.join(str(error).split())}") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UnboxError(
            f"{path} could not be loaded ({type(error).__name__}: {error}); it may be incomplete: fetch or "
            "copy it again, or see `unbox models` for what is ready"
        ) from error


def pipeline_from_folder(
    kind: type[DiffusionPipeline],
    path: Path,
    dtype: torch.dtype,
    allow_pickle: bool = False,
    **parts: torch.nn.Module,
) -> DiffusionPipeline:
    """A pipeline of a folder, each component in the precision that its folder has, half if it has that;
    without SDXL's watermark."""
    index = read_json_object(path / PIPELINE_FILE)
    check_index(index, str(path))
    needed = pipeline_files(paths_in(path), index, str(path), parts, allow_pickle)
    loaded: dict[str, Any] = dict(parts)
    for name, weights in needed.weights.items():
        library, cls = index[name]
        known = library in ("diffusers", "transformers") and isinstance(cls, str)
        component = getattr(importlib.import_module(library), cls, None) if known else None
        if component is None:
            raise UnboxError(
                f"{path}'s {name} is {library}'s {cls}: diffusers and transformers have none such"
            )
        with damage_named(path / name):
            loaded[name] = component.from_pretrained(
                path / name,
                dtype=dtype,
                variant=weights.variant or None,
                use_safetensors=not weights.pickled,
                local_files_only=True,
            )
    return kind.from_pretrained(path, dtype=dtype, local_files_only=True, add_watermarker=False, **loaded)
