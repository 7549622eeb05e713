"""Load an upscale model (ESRGAN, SwinIR, ...) from a file; spandrel recognizes the architecture and builds it."""

from __future__ import annotations

from pathlib import Path

from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError

from .foreign_files import not_the_part
from .weights_file import read


def load_upscale_model(path: str | Path) -> ImageModelDescriptor:
    """Load a model that makes RGB images larger, on the CPU, in float32.

    ValueError where the file has no such model.
    """
    file = read(path)
    try:
        found = ModelLoader("cpu").load_from_state_dict(file.tensors)
    except UnsupportedModelError as error:
        raise ValueError(f"{file.name} {not_the_part(file.tensors, 'an upscale model')}") from error
    except (RuntimeError, KeyError, IndexError, AssertionError) as error:  # it takes shapes and keys on trust
        raise ValueError(f"{file.name} is incomplete or damaged; download it again") from error
    if not isinstance(found, ImageModelDescriptor) or found.input_channels != 3 or found.output_channels != 3:
        raise ValueError(f"{file.name} does not make RGB images from RGB images; choose an upscale model that does")
    return found
