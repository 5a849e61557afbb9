"""Names, kinds and limits of files, as values. Pure."""

import re
import unicodedata
from dataclasses import dataclass

from gateway.store.file_rows import FileRow

FILE_ID = re.compile(r"[A-Za-z0-9_-]{22}")
MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+-]{1,64}")
UNKNOWN_TYPE = "application/octet-stream"
NAME_LIMIT = 100

FileEntry = FileRow
"""What is known of a file; `link` gives where it is."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What files may take. `least_free_bytes` is what they leave of the medium: readings go before files."""

    file_bytes: int = 256 << 20
    owner_bytes: int = 512 << 20
    all_bytes: int = 1 << 30
    least_free_bytes: int = 1 << 30
    owner_files: int = 200
    all_files: int = 1000
    upload_lives_s: float = 24 * 3600.0
    """How long a file that was uploaded, or is still being, is kept."""


def link(file_id: str) -> str:
    """The path at which a file is served."""
    return f"/files/{file_id}"


def safe_name(name: str) -> str:
    """One part of a path, at most 100 printable characters, no leading dot: whatever somebody calls a file."""
    kept = "".join("_" if unicodedata.category(c)[0] in "CZ" and c != " " else c for c in name[: 4 * NAME_LIMIT])
    kept = re.sub(r'[\\/:*?"<>|]+', "_", kept).strip(" .")
    return kept[:NAME_LIMIT].rstrip(" .") or "file"


def safe_type(media_type: str) -> str:
    """A media type without its parameters; bytes of unknown kind where it is none."""
    bare = media_type.partition(";")[0].strip().lower()
    return bare if MEDIA_TYPE.fullmatch(bare) else UNKNOWN_TYPE


def in_words(size_bytes: int) -> str:
    """A size for people."""
    if size_bytes < 1 << 20:
        return f"{size_bytes} bytes"
    return f"{size_bytes / (1 << 20):.0f} MiB"
