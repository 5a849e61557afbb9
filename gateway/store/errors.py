"""What can go wrong with the data. Each message is one line that names the file and the way out."""


class StoreError(Exception):
    """Base of every error the store raises."""


class StoreClosed(StoreError):
    """The store was used outside its `async with`."""


class StoreLocked(StoreError):
    """Another process (or another Store of this one) owns the data folder."""


class StoreNotWritable(StoreError):
    """The data folder cannot be made or written to."""


class StoreTooNew(StoreError):
    """The data was made by a version of the gateway that this one does not understand."""


class StoreDamaged(StoreError):
    """A data file cannot be read; nothing was deleted, and copies are named."""


class StoreFull(StoreError):
    """No room on the medium: nothing of this batch was stored, the next one works once there is room again."""


class QueryTooBig(StoreError):
    """A question needs more memory than the store may use: ask for a shorter range."""


class BackupError(StoreError):
    """A backup cannot be made, verified or restored; what was there before is untouched."""


class TransferError(StoreError):
    """A file of readings cannot be written or read; the message names the line and the rule."""
