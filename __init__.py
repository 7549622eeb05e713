"""SD2 Family: the Stable Diffusion 2 models as ComfyUI nodes, and without ComfyUI through the `sd2` command."""

from __future__ import annotations

WEB_DIRECTORY = "./web"
_MAPPINGS = ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS")


def __getattr__(name: str) -> object:
    """The node mappings, at first use: `sd2 --help` waits for no torch, and pytest may import this file by path."""
    if name not in _MAPPINGS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import nodes

    return getattr(nodes, name)
