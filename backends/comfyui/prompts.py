"""Tell the checks of our nodes which prompt they belong to: ComfyUI validates a node without its graph."""

from __future__ import annotations

import sys
from typing import Any

from .. import queued


def watch() -> None:
    """Announce every prompt before ComfyUI validates it, if this ComfyUI has a server."""
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    if instance := getattr(server, "instance", None):
        instance.add_on_prompt_handler(_announce)


def _announce(request: dict[str, Any]) -> dict[str, Any]:
    prompt = request.get("prompt")
    queued.announce(prompt if isinstance(prompt, dict) else {})
    return request
