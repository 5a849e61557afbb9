"""Where a passphrase comes from: a file, the environment, or the keyboard; never the command line, which others see."""

import getpass
import os
import sys
from pathlib import Path

from gateway.store.errors import BackupError

VARIABLE = "AMBIENT_GATEWAY_PASSPHRASE"


def given(file: Path | None) -> str | None:
    """From the file, or from the environment; None where there is neither."""
    if file is None:
        return os.environ.get(VARIABLE) or None
    try:
        text = file.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise BackupError(
            f"{file}: the passphrase cannot be read ({error}): name a file whose first line it is"
        ) from error
    if not text:
        raise BackupError(f"{file}: its first line is empty: write the passphrase there")
    return text


def new(file: Path | None) -> str | None:
    """For a backup that is made: asked for twice where somebody can answer; None leaves the keys out."""
    found = given(file)
    if found is not None or not sys.stdin.isatty():
        return found
    found = getpass.getpass("passphrase for the keys (empty: leave them out): ")
    if found and getpass.getpass("once more: ") != found:
        raise BackupError("the two passphrases differ: nothing was written, start again")
    return found or None


def known(file: Path | None) -> str | None:
    """For a backup that is read: asked for once where somebody can answer."""
    found = given(file)
    if found is not None or not sys.stdin.isatty():
        return found
    return getpass.getpass("passphrase of the backup: ") or None
