"""The doors between the nodes and what runs them; the nodes and the runner know no other.

The only file that may import ComfyUI.
"""

from __future__ import annotations

import logging

from .folders import input_dir, inside, list_models, output_dir, resolve_model, set_dirs
from .standalone import Model, Sampling, compute_device, inspect, load_checkpoint, progress, sample, set_reporter

__all__ = [
    "Model",
    "Sampling",
    "compute_device",
    "input_dir",
    "inside",
    "inspect",
    "list_models",
    "load_checkpoint",
    "notice",
    "output_dir",
    "progress",
    "resolve_model",
    "sample",
    "set_dirs",
    "set_reporter",
]


def notice(message: str) -> None:
    """Tell the user something that is no error."""
    logging.getLogger("sd2_family").warning(message)
