"""Which files there are, what they take, and whether more fits. Pure but for its own memory."""

from dataclasses import dataclass, field

from gateway.files.entry import FileEntry, Limits, in_words
from gateway.files.errors import FileTooLarge, NoRoom

WAY_OUT = "remove some, or wait until they expire"


@dataclass(slots=True)
class Ledger:
    """`entries` by id; `offsets` how many bytes are here of those that are being uploaded."""

    limits: Limits
    entries: dict[str, FileEntry] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)

    def keep(self, entry: FileEntry) -> FileEntry:
        """Note a file, or what has changed of it."""
        self.entries[entry.file_id] = entry
        if entry.complete:
            self.offsets.pop(entry.file_id, None)
        else:
            self.offsets.setdefault(entry.file_id, 0)
        return entry

    def forget(self, file_id: str) -> None:
        """It is gone."""
        self.entries.pop(file_id, None)
        self.offsets.pop(file_id, None)

    def takes(self, entry: FileEntry) -> int:
        """Bytes of a file: of an upload its declared length, else what is here."""
        return entry.size_bytes if entry.size_bytes is not None else self.offsets.get(entry.file_id, 0)

    def taken(self, owner: str | None = None) -> int:
        """Bytes of the files of an owner, or of all."""
        return sum(self.takes(each) for each in self.entries.values() if owner in {None, each.owner})

    def room(self, owner: str, free_bytes: int) -> int:
        """How long a file of this owner may be, with so many bytes free on the medium."""
        limits = self.limits
        shares = (limits.owner_bytes - self.taken(owner), limits.all_bytes - self.taken())
        return max(0, min(limits.file_bytes, *shares, free_bytes - limits.least_free_bytes))

    def admit(self, owner: str, more_bytes: int, free_bytes: int, *, files: int = 0) -> None:
        """FileTooLarge or NoRoom where so many more bytes (and files) do not fit."""
        limits = self.limits
        if more_bytes > limits.file_bytes:
            most = in_words(limits.file_bytes)
            raise FileTooLarge(f"{in_words(more_bytes)}: a file has at most {most}; ask for less, or in parts")
        mine = sum(each.owner == owner for each in self.entries.values())
        if mine + files > limits.owner_files or len(self.entries) + files > limits.all_files:
            raise NoRoom(f"{mine} of {limits.owner_files} files are yours, {len(self.entries)} are kept: {WAY_OUT}")
        if (used := self.taken(owner)) + more_bytes > limits.owner_bytes:
            raise NoRoom(f"your files take {in_words(used)} of {in_words(limits.owner_bytes)}: {WAY_OUT}")
        if (used := self.taken()) + more_bytes > limits.all_bytes:
            raise NoRoom(f"files take {in_words(used)} of {in_words(limits.all_bytes)}: {WAY_OUT}")
        if free_bytes - more_bytes < limits.least_free_bytes:
            least = in_words(limits.least_free_bytes)
            raise NoRoom(f"{in_words(free_bytes)} are free, {least} stay free for readings: make room on the medium")
