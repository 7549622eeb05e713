"""A typed front for tqdm, which ships without types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress_bar(items: Iterable[T], label: str, *, total: int | None = None, done: int = 0) -> Iterator[T]:
    """Yield `items` while showing a progress bar that starts at `done`."""
    yield from tqdm(items, label, total=total, initial=done, mininterval=1)
