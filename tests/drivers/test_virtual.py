"""Virtual time: order is kept, nothing waits."""

import asyncio
import threading

import pytest

from tests.virtual import VirtualLoop, run_virtual


def test_a_year_passes_at_once_and_in_order():
    async def main():
        seen: list[str] = []

        async def after(delay_s: float, name: str) -> None:
            await asyncio.sleep(delay_s)
            seen.append(name)

        async with asyncio.TaskGroup() as group:
            for delay_s, name in ((3e7, "year"), (1.0, "second"), (86_400.5, "day"), (0.001, "tick")):
                group.create_task(after(delay_s, name))
        return seen, asyncio.get_running_loop().time()

    seen, took_s = run_virtual(main())
    assert seen == ["tick", "second", "day", "year"]
    assert took_s == pytest.approx(3e7)


def test_timeouts_are_virtual_too():
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.get_running_loop().create_future()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(3600)


def test_small_steps_late_in_time_still_advance():
    async def main():
        await asyncio.sleep(1e9)
        loop = asyncio.get_running_loop()
        before = loop.time()
        for _ in range(100):
            await asyncio.sleep(1e-9)
        return loop.time() - before

    assert run_virtual(main()) >= 0


def test_a_thread_can_wake_the_loop():
    async def main():
        return await asyncio.get_running_loop().run_in_executor(None, threading.get_ident)

    assert run_virtual(main()) != threading.get_ident()


def test_the_clock_starts_at_zero():
    loop = VirtualLoop()
    try:
        assert loop.time() == 0
    finally:
        loop.close()
