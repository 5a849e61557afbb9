"""Remedies for a damaged hot.duckdb and its log, from the mildest to the hardest.

Each looks at the closed files, and either changes them and says what it did, or returns None because it does not apply.
Nothing is deleted: what is replaced stays beside it as NAME.damaged-N (a log of a file keeps its file's name, so that
the pair can be opened). A remedy may be cut short anywhere and be tried again.
"""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from gateway.store.files import sync_file, sync_folder
from gateway.store.mend import rescue, wal
from gateway.store.mend.wal import HEAD_BYTES, Belonging, Fit, Walk

GOOD_COPY = "hot.good.duckdb"
PROBE_WITHIN_S = 120.0
_PROBE = """
import sys, duckdb
duckdb.connect(sys.argv[1], read_only=True, config={"memory_limit": "256MB", "threads": 1})
"""

# In processes of their own: whoever closes a file gives up all locks that its process holds on it, DuckDB's too.
_COPY = f'head -c {3 * HEAD_BYTES} "$1" && cp "$1" "$2" && head -c {3 * HEAD_BYTES} "$1"'


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done. `lossy`: something that was committed is gone by it; `spare`: what was kept holds nothing but a
    write that never finished, if no batch is missing."""

    what: str
    kept: tuple[Path, ...] = ()
    lossy: bool = False
    spare: bool = False
    beyond: int = 0
    """Transactions known to have been committed behind the damage."""


Remedy = Callable[[Path], Mended | None]


def log_of(file: Path) -> Path:
    return file.with_name(file.name + ".wal")


def look_at_log(file: Path) -> Mended | None:
    """Before each opening: DuckDB would drop what follows a spoilt head or size without a word."""
    return _mend_log(file, thorough=False)


def mend_log(file: Path) -> Mended | None:
    """Cut the log at the first record whose checksum is wrong; set a log aside that belongs to another file."""
    return _mend_log(file, thorough=True)


def mend_head(file: Path) -> Mended | None:
    """A file has two heads that take turns. Where a power cut tore one in the midst of a checkpoint, or an old one is
    damaged, the sound one counts: the log goes with it, or it is the newer one."""
    head = wal.read_head(file)
    if head is None or head.is_sound:
        return None
    with file.open("rb") as stream:
        heads = stream.read(3 * HEAD_BYTES)
    if (healed := wal.heal(heads)) is not None:
        kept = _write_heads(file, healed)
        return Mended(f"zeros behind the fields of a head of {file.name} were damaged", (kept,))
    if not head.identifier or head.iteration is None:
        return None
    bad = head.iterations.index(None)
    fit = Belonging(head.identifier, head.iteration).judge(_start(log_of(file)))
    if fit is not Fit.CURRENT and head.claimed[bad] != head.iteration - 1:
        return None
    sound = heads[(2 - bad) * HEAD_BYTES : (3 - bad) * HEAD_BYTES]
    kept = _write_heads(file, heads[:HEAD_BYTES] + sound * 2)
    return Mended(f"one of the two heads of {file.name} was damaged, the other one is sound and current", (kept,))


def shorten_log(file: Path) -> Mended | None:
    """The longest part of a sound log that opens, tried out in child processes: replaying the rest fails, or ends the
    process."""
    log = log_of(file)
    if not log.exists() or probe(file) is None or probe(file, 0) is not None:
        return None
    ends = (0, *_commits(file))
    opens, fails = 0, len(ends) - 1
    while fails - opens > 1:
        middle = (opens + fails) // 2
        if probe(file, ends[middle]) is None:
            opens = middle
        else:
            fails = middle
    kept = _cut_log(log, b"", 0, ends[opens])
    what = f"{log.name} could not be replayed from byte {ends[opens]} on and was cut there"
    return Mended(what, (kept,), lossy=True, beyond=max(len(ends) - 1 - opens, 0))


def take_current_copy(file: Path) -> Mended | None:
    """The last good copy, where nothing is missing with it: the log goes with it, or it is of the same checkpoint."""
    return _take_copy(file, lossy=False)


def rescue_rows(file: Path) -> Mended | None:
    """What can still be read of a file that opens but has damaged blocks. Not where names and keys are among them, and
    a copy has those."""
    part = file.with_name(file.name + ".part")
    part.unlink(missing_ok=True)
    try:
        gone = rescue.read_out(file, part) if probe(file) is None else None
    except duckdb.Error as error:
        if "No space left" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), part) from error
        gone = None
    if gone is None or ((gone.names and (file.parent / GOOD_COPY).exists()) or "migration" in gone.rows):
        part.unlink(missing_ok=True)
        return None
    kept = _keep_pair(file)
    log_of(file).unlink(missing_ok=True)
    os.replace(part, file)
    sync_folder(file.parent)
    return Mended(f"{file.name} had damaged blocks; what could be read was written anew, {gone}", kept, lossy=True)


def take_copy(file: Path) -> Mended | None:
    """The last good copy, without what came after it."""
    return _take_copy(file, lossy=True)


def start_empty(file: Path) -> Mended | None:
    """A new file; sealed history is not in it and stays."""
    kept = _keep_pair(file)
    copy = file.parent / GOOD_COPY
    if copy.exists():
        kept = (*kept, _keep(copy, copy))
        copy.unlink()
    for each in (file, log_of(file)):
        each.unlink(missing_ok=True)
    sync_folder(file.parent)
    return Mended(f"{file.name} could not be used, and there is no copy that could: it begins anew", kept, lossy=True)


REMEDIES: tuple[Remedy, ...] = (
    mend_log,
    mend_head,
    shorten_log,
    take_current_copy,
    rescue_rows,
    take_copy,
    mend_log,
    shorten_log,
    start_empty,
)


def save_copy(file: Path) -> bool:
    """Make the file as of its last checkpoint its last good copy, from any thread while it is in use. Its log goes with
    that copy until the next checkpoint. False if one came between: try again.

    It is read whole first: duckdb.Error, and the copy before it stays, where a block of it is damaged.
    """
    copy = file.parent / GOOD_COPY
    part = copy.with_name(copy.name + ".part")
    try:
        return _copy_sound(file, part, copy)
    finally:
        part.unlink(missing_ok=True)


def _copy_sound(file: Path, part: Path, copy: Path) -> bool:
    ended = subprocess.run(["/bin/sh", "-c", _COPY, "sh", str(file), str(part)], capture_output=True, check=False)
    if ended.returncode != 0:
        raise OSError(f"{file.name} could not be copied: {ended.stderr.decode(errors='replace').strip()}")
    if ended.stdout[: 3 * HEAD_BYTES] != ended.stdout[3 * HEAD_BYTES :]:
        return False
    sync_file(part)
    with duckdb.connect(str(part), read_only=True, config={"memory_limit": "64MB", "threads": 1}) as db:
        rescue.verify(db)
    os.replace(part, copy)
    sync_folder(copy.parent)
    return True


def probe(file: Path, log_bytes: int | None = None) -> str | None:
    """Open the file in a child process, with so many bytes of its log (None: all of it): None if that works, else why
    not. A process that dies or hangs of it is a why, too."""
    place = file.with_name("hot.probe")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        with suppress(FileNotFoundError):
            _link(file, place / file.name)
            _copy(log_of(file), place / log_of(file).name, 0, log_bytes)
        command = [sys.executable, "-I", "-c", _PROBE, str(place / file.name)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        return f"opening {file.name} takes more than {PROBE_WITHIN_S:g} s"
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if ended.returncode == 0:
        return None
    if ended.returncode < 0:
        return f"opening {file.name} ended the process (signal {-ended.returncode})"
    return ended.stderr.strip().splitlines()[-1] if ended.stderr.strip() else "no reason was given"


def _mend_log(file: Path, *, thorough: bool) -> Mended | None:
    log, head = log_of(file), wal.read_head(file)
    start = _start(log)
    if not start or head is None or not head.identifier or head.iteration is None:
        return None
    found = Belonging(head.identifier, head.iteration)
    fit = found.judge(start)
    if fit is Fit.SPOILT and not wal.walk(log, len(found.encode()), thorough=True).commits:
        fit = Fit.DESTROYED if start[5:6] == b"\2" else Fit.UNKNOWN
    if fit in {Fit.CURRENT, Fit.SPOILT}:
        return _mend_records(log, found, spoilt=fit is Fit.SPOILT, thorough=thorough)
    if fit is Fit.UNKNOWN or not head.is_sound or (fit is not Fit.DESTROYED and not thorough):
        return None  # the engine has its say first; and with the other head it may well be ours
    if fit is Fit.SUPERSEDED:
        what = f"{log.name} was damaged; all of it is in {file.name} already"
        return Mended(what, (_cut_log(log, b"", 0, 0),))
    beyond = wal.walk(log, 0, thorough=True).beyond
    what = f"the beginning of {log.name} is damaged or goes with another file: {file.name} was opened without it"
    return Mended(what, (_cut_log(log, b"", 0, 0),), lossy=True, beyond=beyond)


def _mend_records(log: Path, belonging: Belonging, *, spoilt: bool = False, thorough: bool) -> Mended | None:
    head = belonging.encode()
    if not (thorough or spoilt) and wal.walk(log, len(head), thorough=False).is_clean:
        return None
    found = wal.walk(log, len(head), thorough=True)
    if found.is_clean and not spoilt:
        return None
    if not found.damaged and not spoilt:
        return _unfinished(log, found)
    kept = _cut_log(log, head, len(head), found.whole)
    if not found.damaged:
        return Mended(f"the beginning of {log.name} was damaged and was written anew", (kept,))
    what = f"{log.name} was damaged at byte {found.whole} of {found.size} and was cut there"
    return Mended(what, (kept,), lossy=found.beyond > 0, beyond=found.beyond)


def _unfinished(log: Path, found: Walk) -> Mended | None:
    """DuckDB cuts such an end off by itself; it is kept until the batch number shows that nothing is missing."""
    kept = _free_name(log)
    try:
        _copy(log, kept, found.whole, None)
    except OSError:  # a full medium is no reason not to start
        kept.unlink(missing_ok=True)
        return None
    what = f"the last {found.size - found.whole} bytes of {log.name} were a write that never finished"
    return Mended(what, (kept,), spare=True)


def _start(log: Path) -> bytes:
    """What a log begins with; empty if there is none."""
    try:
        with log.open("rb") as stream:
            return stream.read(64)
    except FileNotFoundError:
        return b""


def _commits(file: Path) -> tuple[int, ...]:
    """Where the log of this file can be cut."""
    head = wal.read_head(file)
    if head is None or head.iteration is None:
        return ()
    found = Belonging(head.identifier, head.iteration)
    if found.judge(_start(log_of(file))) is not Fit.CURRENT:
        return ()
    return wal.walk(log_of(file), len(found.encode()), thorough=True).commits


def _take_copy(file: Path, *, lossy: bool) -> Mended | None:
    copy = file.parent / GOOD_COPY
    theirs, ours, log = wal.read_head(copy), wal.read_head(file), log_of(file)
    if theirs is None or not theirs.identifier or theirs.iteration is None:
        return None
    if log.exists():
        whole = Belonging(theirs.identifier, theirs.iteration).judge(_start(log)) in {Fit.CURRENT, Fit.SPOILT}
    else:
        whole = ours is not None and (ours.identifier, ours.iteration) == (theirs.identifier, theirs.iteration)
    if not whole and not lossy:
        return None
    kept = _keep_pair(file)
    part = file.with_name(file.name + ".part")
    _copy(copy, part, 0, None)
    if not whole:
        log.unlink(missing_ok=True)
    os.replace(part, file)
    sync_folder(file.parent)
    made = datetime.fromtimestamp(copy.stat().st_mtime, UTC)
    what = f"{file.name} could not be used; its last good copy of {made:%Y-%m-%d %H:%M} UTC took its place"
    return Mended(what + (", and its log with it" if whole else ""), kept, lossy=not whole)


def _write_heads(file: Path, heads: bytes) -> Path:
    """Other heads for a file; what stood there before is kept."""
    kept = _free_name(file.with_name(file.name + ".head"))
    _copy(file, kept, 0, 3 * HEAD_BYTES)
    with file.open("r+b") as stream:
        stream.write(heads)
        stream.flush()
        os.fsync(stream.fileno())
    return kept


def _cut_log(log: Path, head: bytes, start: int, end: int) -> Path:
    """Make the log `head` and its bytes from start to end, nothing at all where those are none. The old one is kept."""
    kept = _keep(log, log)
    if end <= start:
        log.unlink()
    else:
        part = log.with_name(log.name + ".part")
        _copy(log, part, start, end, head)
        os.replace(part, log)
    sync_folder(log.parent)
    return kept


def _keep_pair(file: Path) -> tuple[Path, ...]:
    """A second name for a file and its log, where they exist."""
    name = _free_name(file)
    pair = ((file, name), (log_of(file), log_of(name)))
    return tuple(_link(old, new) for old, new in pair if old.exists())


def _keep(file: Path, like: Path) -> Path:
    return _link(file, _free_name(like))


def _free_name(file: Path) -> Path:
    number = 1
    while (name := file.with_name(f"{file.name}.damaged-{number}")).exists() or log_of(name).exists():
        number += 1
    return name


def _link(old: Path, new: Path) -> Path:
    """A second name for a file's content; a copy where the file system has no such thing."""
    try:
        os.link(old, new)
    except OSError:
        _copy(old, new, 0, None)
    return new


def _copy(old: Path, new: Path, start: int, end: int | None, head: bytes = b"") -> None:
    """`head` and the bytes from start to end as a new file, on disk when this returns."""
    with old.open("rb") as source, new.open("wb") as target:
        target.write(head)
        source.seek(start)
        left = (old.stat().st_size if end is None else end) - start
        while left > 0 and (piece := source.read(min(left, 1 << 20))):
            target.write(piece)
            left -= len(piece)
        target.flush()
        os.fsync(target.fileno())
