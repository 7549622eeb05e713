"""What loaders of a single file share: whether it is there, and whether it has changed."""

from __future__ import annotations

from ...backends import folders


def is_there(kind: str, name: str | None) -> bool:
    """Raise ValueError where there is no such file; None is a name that is linked and not known yet."""
    if name is not None:
        folders.resolve_model(kind, name)
    return True


def stamp(kind: str, name: str) -> list[int]:
    """Return what changes with the file: its time and its size."""
    stat = folders.resolve_model(kind, name).stat()
    return [stat.st_mtime_ns, stat.st_size]
