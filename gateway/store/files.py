"""What is asked of files: that they are on the medium, and their names in SQL."""

import os
from pathlib import Path


def sync_file(file: Path) -> None:
    """Make the content of a file durable (or the names in a folder)."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: after a rename, or a new file."""
    sync_file(folder)


def quoted(text: object) -> str:
    """As an SQL string."""
    return "'" + str(text).replace("'", "''") + "'"
