"""Folders and files of the slots. A slot comes into being under another name and goes under another name, so that none
is ever there in part. Loaded while there is an update, and forgotten afterwards."""

import asyncio
import binascii
import hashlib
import os

from micropython import const

_FOLDER = const(0x4000)


def drop(slot):
    """Take a folder away: first its name, so that nobody sees a part of it."""
    if size_of(slot + ".old") >= 0:
        _empty(slot + ".old")
    if size_of(slot) >= 0:
        os.rename(slot, slot + ".old")
        _empty(slot + ".old")


def _empty(folder):
    for name in os.listdir(folder):
        path = folder + "/" + name
        if os.stat(path)[0] & _FOLDER:
            _empty(path)
        else:
            os.remove(path)
    os.rmdir(folder)


def make(root, path):
    """The folders of a file, where they are not there."""
    for end in [index for index, letter in enumerate(path) if letter == "/"]:
        if size_of(root + "/" + path[:end]) < 0:
            os.mkdir(root + "/" + path[:end])


def size_of(path):
    """Bytes of a file, -1 where there is none."""
    try:
        return os.stat(path)[6]
    except OSError:
        return -1


def room(folder, files):
    """(bytes that are free, bytes that these files need beside what they have already)."""
    state = os.statvfs(folder)
    block, needs, parents = state[0], 0, set()
    for each in files:
        has = max(0, size_of(folder + "/" + each["path"]))
        needs += -(-each["bytes"] // block) - -(-has // block)
        parents.add(each["path"].rpartition("/")[0])
    return state[3] * block, (needs + 2 * len(parents)) * block


async def digest(path):
    """(hash, bytes) of what is in the flash; others have their turn meanwhile."""
    found, count = hashlib.sha256(), 0
    buffer = bytearray(1024)
    if size_of(path) >= 0:
        with open(path, "rb") as file:
            while size := file.readinto(buffer):
                found.update(memoryview(buffer)[:size])
                count += size
                await asyncio.sleep_ms(0)
    return found, count


async def is_whole(path, sha256):
    """Whether a file is there and has this hash, in hexadecimal."""
    return size_of(path) >= 0 and binascii.hexlify((await digest(path))[0].digest()).decode() == sha256
