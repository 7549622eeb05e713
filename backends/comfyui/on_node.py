"""Show our notices on the node that gives them, as text under its widgets."""

from __future__ import annotations

import logging
import sys

from comfy_execution.utils import get_executing_context


class OnNode(logging.Handler):
    """Send warnings to the page that queued the running prompt; web/notices.js removes them as the node runs again."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.node: tuple[str, str] | None = None
        self.sentences: list[str] = []  # of this run of the node

    def emit(self, record: logging.LogRecord) -> None:
        """Show a sentence below the node's earlier ones; nothing where no page asked for the run."""
        context = get_executing_context()
        module = sys.modules.get("server")  # ComfyUI's main.py imports it; where ComfyUI is a library, there is none
        server = None if module is None else module.PromptServer.instance
        if context is None or server is None or server.client_id is None:
            return
        node = (context.prompt_id, context.node_id)
        if node != self.node:
            self.node, self.sentences = node, []
        sentence = self.format(record)
        if sentence not in self.sentences:  # a node that runs over a list says the same of each item
            self.sentences.append(sentence)
        server.send_progress_text("\n".join(self.sentences), context.node_id, server.client_id)
