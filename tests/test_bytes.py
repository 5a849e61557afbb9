"""The bench that counts bytes on a block device: the device counts, and the peer gets what the nodes measure."""

import itertools
import os
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from bench.bytes import Peer, device


@pytest.mark.system
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mkfs.ext4") is None or not Path("/dev/loop-control").exists(),
    reason="needs root, mkfs.ext4 and loop devices",
)
def test_a_device_counts_what_reaches_it_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with device(tmp_path) as made:
        before = made.written()
        (made.folder / "file").write_bytes(os.urandom(1 << 20))
        grown = made.written() - before
        assert 1 << 20 <= grown < 2 << 20
        assert os.path.ismount(made.folder)
    assert not os.path.ismount(made.folder)
    assert str(tmp_path) not in Path("/proc/mounts").read_text(encoding="utf-8")
    backing = Path("/sys/block") / made.name / "loop" / "backing_file"
    assert not backing.exists() or str(tmp_path) not in backing.read_text(encoding="utf-8")


def test_the_peer_commits_what_is_measured_beside_what_it_had(tmp_path: Path) -> None:
    def room() -> Mapping[str, float]:
        return {"co2": 600.0, "temperature": 21.5}

    seconds = itertools.count(1_800_000_000)
    peer = Peer(tmp_path / "peer.sqlite", lambda: float(next(seconds)))
    one, other = peer.watched(1, room), peer.watched(2, room)
    with peer.opened(10) as db:
        assert [one() == room(), other() == room(), one() == room()] == [True] * 3
        peer.commit(db, peer.taken())
    assert peer.committed == 6
    with closing(sqlite3.connect(tmp_path / "peer.sqlite")) as db:
        counts = db.execute("select series_id, count(*) from reading group by 1 order by 1 limit 5").fetchall()
    assert counts == [(1, 12), (2, 12), (3, 11), (4, 11), (5, 10)]
