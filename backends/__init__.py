"""The backend of the nodes: ComfyUI inside ComfyUI, `local` elsewhere."""

from __future__ import annotations

import sys

from .protocol import Backend, DiffusionModel


def _backend() -> Backend:
    if "folder_paths" in sys.modules:  # ComfyUI imports it before any pack
        from . import comfyui

        return comfyui
    from . import local

    return local


backend: Backend = _backend()

__all__ = ["Backend", "DiffusionModel", "backend"]
