"""What is asked of files: that they are on the medium, and their names in SQL."""

import ctypes
import os
from pathlib import Path

_KEEP_SIZE = 1  # <linux/falloc.h>, FALLOC_FL_KEEP_SIZE


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


def reserve(file: Path, ahead_bytes: int) -> bool:
    """Give a file that grows blocks for so many bytes beyond its end, which stays where it is: fallocate(2) with
    FALLOC_FL_KEEP_SIZE. False where the file system cannot, or has no room."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        end = os.fstat(descriptor).st_size
        libc = ctypes.CDLL(None, use_errno=True)
        call = getattr(libc, "fallocate64", None) or libc.fallocate
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        return bool(call(descriptor, _KEEP_SIZE, end, ahead_bytes) == 0)
    finally:
        os.close(descriptor)
