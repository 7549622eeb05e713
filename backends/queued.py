"""The prompt that is about to be queued, for checks of the wiring: VALIDATE_INPUTS gets values only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Prompt = Mapping[str, Any]  # in the API format: node id -> {"class_type": ..., "inputs": ...}

_queued: ContextVar[Prompt | None] = ContextVar("queued", default=None)


def announce(prompt: Prompt) -> None:
    """Make a prompt known to the checks of its nodes, which run later in the same task or thread."""
    _queued.set(prompt)


@contextmanager
def checking(prompt: Prompt) -> Iterator[None]:
    """Make a prompt known while the block runs."""
    before = _queued.set(prompt)
    try:
        yield
    finally:
        _queued.reset(before)


def queued() -> Prompt:
    """Return the prompt whose nodes are being checked; empty if nobody announced one."""
    return _queued.get() or {}
