"""What a user should know of a run that goes on: one line each in the log."""

from __future__ import annotations

import logging


def notice(sentence: str) -> None:
    """Log a sentence: which valid setting does nothing here, or what was left out, and what to do."""
    logging.getLogger("sd2_family").warning(sentence)
