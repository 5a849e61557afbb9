"""One supervised child: framing, limits of time and size, its end in every way, nothing left behind."""

import asyncio
import os
import select
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.jail import frames
from gateway.jail.child import Child, ChildBusy, ChildDied, ChildOverran, ChildUnready, pss_bytes

PROGRAM = Path(__file__).parent / "children.py"
LONG_S = 60.0


def gone(pid: int) -> None:
    """Wait until that process has ended (zombies have)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], LONG_S)[0], f"{pid} is still there"
    finally:
        os.close(descriptor)


async def test_it_answers_and_has_nothing_of_ours() -> None:
    os.environ["GW_TEST_SECRET"] = "x"
    try:
        async with Child(PROGRAM) as child:
            assert child.pid is None  # nothing runs before it is needed
            assert await child.ask({"do": "echo", "é": [1]}, b"body" * 50_000, limit_s=LONG_S) == (
                {"do": "echo", "é": [1]},
                b"body" * 50_000,
            )
            seen, _ = await child.ask({"do": "look"}, limit_s=LONG_S)
            assert seen["environment"].keys() <= {"LC_CTYPE"}
            assert seen["folder"] == "/"
            assert seen["descriptors"] == [0, 1, 2]
            pid = child.pid
            assert pid is not None
            assert 1 << 20 < pss_bytes(pid) < 100 << 20
            assert child.counts.started == 1
        gone(pid)
    finally:
        del os.environ["GW_TEST_SECRET"]


async def test_one_that_overruns_is_killed_and_replaced() -> None:
    async with Child(PROGRAM) as child:
        await child.start()
        first = child.pid
        with pytest.raises(ChildOverran, match=r"no answer within 0\.05 s"):
            await child.ask({"do": "sleep"}, limit_s=0.05)
        assert first is not None
        gone(first)
        assert (await child.ask({"do": "echo"}, limit_s=LONG_S))[0] == {"do": "echo"}
        assert child.pid != first
        assert (child.counts.started, child.counts.killed, child.counts.crashed) == (2, 1, 0)


async def test_one_that_stands_still_is_killed() -> None:
    async with Child(PROGRAM) as child:
        await child.start()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(ChildOverran):
            await child.ask({"do": "echo"}, limit_s=0.05)
        assert (await child.ask({"do": "echo"}, limit_s=LONG_S))[0] == {"do": "echo"}


def _frame(text: bytes, body: bytes = b"") -> str:
    return (struct.pack("!II", len(text), len(body)) + text + body).hex()


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ({"do": "die"}, "a last word"),
        ({"do": "hang up"}, "ended with -9"),
        ({"do": "long", "count": 8 << 20}, "at most 8388608 are agreed"),
        ({"do": "spoil", "bytes": "ff" * 8}, "are agreed"),
        ({"do": "spoil", "bytes": _frame(b"[1]")}, "not the JSON object"),
        ({"do": "spoil", "bytes": _frame(b'{"a":NaN}')}, "not the JSON object"),
        ({"do": "spoil", "bytes": _frame(b"\xff{}")}, "not the JSON object"),
        ({"do": "spoil", "bytes": _frame(b"[" * 100_000)}, "not the JSON object"),
        ({"do": "spoil", "bytes": _frame(b"9" * 10_000)}, "not the JSON object"),
    ],
)
async def test_one_that_breaks_the_agreement_is_ended(question: dict[str, object], why: str) -> None:
    async with Child(PROGRAM) as child:
        with pytest.raises(ChildDied, match=why):
            await child.ask(question, limit_s=LONG_S)
        assert (await child.ask({"do": "echo"}, limit_s=LONG_S))[0] == {"do": "echo"}
        assert (child.counts.started, child.counts.killed, child.counts.crashed) == (2, 0, 1)


async def test_the_largest_answer_comes() -> None:
    async with Child(PROGRAM) as child:
        _, body = await child.ask({"do": "long", "count": frames.ANSWER_BYTES - 10}, limit_s=LONG_S)
        assert len(body) == frames.ANSWER_BYTES - 10


async def test_a_question_that_is_given_up_ends_the_child() -> None:
    """Its answer may not become that of the next question."""
    async with Child(PROGRAM) as child:
        await child.start()
        asked = asyncio.create_task(child.ask({"do": "sleep"}, limit_s=LONG_S))
        await asyncio.sleep(0)
        assert child._turn.locked()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert (await child.ask({"do": "echo"}, limit_s=LONG_S))[0] == {"do": "echo"}
        assert child.counts.started == 2


async def test_questions_wait_for_each_other_and_not_too_many_of_them() -> None:
    async with Child(PROGRAM, waiting=3) as child:
        asked = [asyncio.create_task(child.ask({"do": "echo", "at": at}, limit_s=LONG_S)) for at in range(8)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    served = [each[0]["at"] for each in answers if not isinstance(each, BaseException)]
    assert served == list(range(len(served)))
    assert all(isinstance(each, ChildBusy) for each in answers[len(served) :])
    assert 4 <= len(served) < 8
    assert child.counts.refused == 8 - len(served)


async def test_it_is_gone_after_a_while_and_comes_back() -> None:
    async with Child(PROGRAM, idle_s=0.05) as child:
        await child.ask({"do": "echo"}, limit_s=LONG_S)
        pid = child.pid
        assert pid is not None
        await asyncio.to_thread(gone, pid)
        assert child.counts.retired == 1
        assert (await child.ask({"do": "echo"}, limit_s=LONG_S))[0] == {"do": "echo"}
        assert child.counts.started == 2
        assert child.counts.crashed == 0


async def test_one_that_cannot_start_says_why() -> None:
    async with Child(PROGRAM, ("unready",)) as child:
        with pytest.raises(ChildUnready, match="no room"):
            await child.ask({"do": "echo"}, limit_s=LONG_S)
        assert child.pid is None
    async with Child(PROGRAM, ("late",), ready_s=0.05) as child:
        with pytest.raises(ChildUnready, match="not ready within"):
            await child.start()
    async with Child("gateway.jail.nowhere") as child:
        with pytest.raises(ChildUnready, match="No module named"):
            await child.start()


async def test_the_owner_ends_while_a_question_is_asked() -> None:
    async with Child(PROGRAM) as child:
        await child.start()
        pid = child.pid
        asked = asyncio.create_task(child.ask({"do": "sleep"}, limit_s=LONG_S))
        await asyncio.sleep(0)
    with pytest.raises(ChildDied):
        await asked
    with pytest.raises(ChildUnready):
        await child.ask({"do": "echo"}, limit_s=LONG_S)
    assert pid is not None
    gone(pid)


def test_nothing_outlives_a_gateway_that_is_killed(tmp_path: Path) -> None:
    """kill -9 of the owner while code runs: the zygote and the code's own process end too."""
    program = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom gateway.jail.analysis import Analysis\n"
        "async def main():\n"
        f"    async with Analysis(Path({str(tmp_path)!r})) as analysis:\n"
        "        await analysis.check()\n"
        "        asked = asyncio.create_task(analysis.call('def f():\\n  while True: pass', 'f', {}, limit_s=600))\n"
        "        zygote = analysis.pids['functions']\n"
        "        tasks = Path(f'/proc/{zygote}/task/{zygote}/children')\n"
        "        while not (running := tasks.read_text().split()): await asyncio.sleep(0)\n"
        "        print(zygote, *running, flush=True)\n"
        "        await asked\n"
        "asyncio.run(main())"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(each) for each in owner.stdout.readline().split()]
        assert len(pids) == 2
        owner.kill()
    for pid in pids:
        gone(pid)


def test_frames_promise_no_more_than_is_agreed() -> None:
    assert frames.sizes(struct.pack("!II", 2, 90), 100) == (2, 90)
    with pytest.raises(frames.FrameError, match="at most 99 are agreed"):
        frames.sizes(struct.pack("!II", 2, 90), 99)
    reading, writing = os.pipe()
    try:
        frames.write(writing, frames.pack({"a": 1}, b"x"))
        os.close(writing)
        assert frames.read(reading, 100) == ({"a": 1}, b"x")
        assert frames.read(reading, 100) is None
    finally:
        os.close(reading)
