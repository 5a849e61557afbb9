"""Browse for a minute and print each answer as `found JSON`."""

import asyncio
import dataclasses
import json
import sys

from gateway.discovery.find import browse


async def main() -> None:
    async for found in browse(60.0):
        sys.stdout.write(f"found {json.dumps(dataclasses.asdict(found))}\n")
        sys.stdout.flush()


asyncio.run(main())
