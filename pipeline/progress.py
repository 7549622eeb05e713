"""Progress reports of long computations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Reporter = Callable[[int, int], None]
"""report(steps done, steps in all); it may raise to stop the run."""

_reporter: Reporter | None = None


@contextmanager
def reporting(reporter: Reporter | None) -> Iterator[None]:
    """Send progress to `reporter` while the block runs; None keeps the one there is."""
    global _reporter
    before, _reporter = _reporter, reporter or _reporter
    try:
        yield
    finally:
        _reporter = before


def progress(done: int, total: int) -> None:
    """Report how many steps of a long computation are done."""
    if _reporter is not None:
        _reporter(done, total)
