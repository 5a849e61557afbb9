"""What the conformance suite cannot do: send a token. This proxy adds the header and passes all else on as it came."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


@asynccontextmanager
async def with_token(port: int, token: str) -> AsyncIterator[int]:
    """The port of a proxy on loopback to `port` that adds the bearer token; Host, Origin and bodies stay untouched."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.TaskGroup() as group:
            back = group.create_task(_answers(up_reader, writer), name="answers")
            await _requests(reader, up_writer, token)
            up_writer.close()
            back.cancel()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):  # the suite hung up
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, headers = head.partition(b"\r\n")
            writer.write(line + b"\r\nauthorization: Bearer " + token.encode() + b"\r\n" + headers)
            length = [h.partition(b":")[2] for h in headers.lower().split(b"\r\n") if h.startswith(b"content-length:")]
            writer.write(await reader.readexactly(int(length[0])) if length else b"")
            await writer.drain()


async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()
