"""The backend inside ComfyUI: ComfyUI's own objects around our networks. No other files import ComfyUI."""

import logging

from .files import input_dir, list_models, resolve_model, show
from .loader import load_checkpoint
from .on_node import OnNode
from .prompts import watch
from .sampler import identify, sample, schedule

__all__ = ["identify", "input_dir", "list_models", "load_checkpoint", "resolve_model", "sample", "schedule", "show"]

logging.getLogger("sd2_family").addHandler(OnNode())
watch()
