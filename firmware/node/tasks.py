"""Running several coroutines as one; and giving back the memory of a module that is not needed for long."""

import asyncio
import sys


async def first(*coroutines):
    """Run them until one ends or fails; the others are cancelled and gone when this returns or raises."""
    ended = asyncio.Event()
    outcome = []

    async def run(coroutine):
        try:
            await coroutine
            outcome.append(None)
        except Exception as error:
            outcome.append(error)
        ended.set()

    tasks = [asyncio.create_task(run(each)) for each in coroutines]
    try:
        await ended.wait()
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            try:
                await task
            except asyncio.CancelledError:
                pass
    if outcome and outcome[0] is not None:
        raise outcome[0]


async def within(doing, limit_ms):
    """The result, or OSError where it takes longer."""
    result = []

    async def run():
        result.append(await doing)

    async def limit():
        await asyncio.sleep_ms(limit_ms)
        raise OSError(110)

    await first(run(), limit())
    return result[0]


def forget(name):
    """Unload a module (its package knows it as well)."""
    sys.modules.pop(name, None)
    package, _, last = name.rpartition(".")
    if package in sys.modules and hasattr(sys.modules[package], last):
        delattr(sys.modules[package], last)
