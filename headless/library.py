"""The nodes that run without ComfyUI: ours and stand-ins for stock nodes."""

from __future__ import annotations

from .. import nodes
from . import stock
from .graph import Library

LIBRARY = Library(
    classes={**stock.NODE_CLASS_MAPPINGS, **nodes.NODE_CLASS_MAPPINGS},
    names={**stock.NODE_DISPLAY_NAME_MAPPINGS, **nodes.NODE_DISPLAY_NAME_MAPPINGS},
)
