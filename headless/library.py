"""The nodes a workflow may be made of: ours, and stand-ins for the stock ones."""

from __future__ import annotations

from .. import nodes
from . import stock
from .graph import Library

LIBRARY = Library(
    classes={**stock.NODE_CLASS_MAPPINGS, **nodes.NODE_CLASS_MAPPINGS},
    names={**stock.NODE_DISPLAY_NAME_MAPPINGS, **nodes.NODE_DISPLAY_NAME_MAPPINGS},
)
