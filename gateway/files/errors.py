"""What can be wrong with a file that somebody wants to put, to get or to send. One line each, with the way out."""


class FileError(ValueError):
    """Base of every refusal of this room."""


class FileMissing(FileError, LookupError):
    """There is no such file for this owner: never was, expired, or somebody else's; nobody is told which."""


class FileNotComplete(FileError):
    """The file is still being uploaded; `offset` bytes are here."""

    def __init__(self, text: str, offset: int) -> None:
        super().__init__(text)
        self.offset = offset


class FileTooLarge(FileError):
    """More bytes than one file may have."""


class NoRoom(FileError):
    """The owner's or everybody's share, or the medium itself, has no room for it."""


class WrongOffset(FileError):
    """The next bytes are not those that follow: `offset` is where to go on, `given` what the sender took it for."""

    def __init__(self, text: str, offset: int, given: int) -> None:
        super().__init__(text)
        self.offset, self.given = offset, given


class WrongLength(FileError):
    """A length that contradicts what was declared before, or more bytes than declared."""


class UploadComplete(FileError):
    """Nothing can be added to a file that is complete."""


class WrongHash(FileError):
    """The bytes that came are not those of the declared SHA-256: all of them were thrown away."""


class Interrupted(FileError):
    """Another request took this upload over; `offset` bytes are here."""

    def __init__(self, text: str, offset: int) -> None:
        super().__init__(text)
        self.offset = offset
