"""Code that speaks for the jail's own machinery: it can spoil its own answer and nobody else's."""

import json
import re
import struct
import zlib

import pytest

from gateway.jail import png
from gateway.jail.analysis import STDOUT_CHARACTERS, Analysis, Analyzed, CodeFailed
from tests.jail.python_tools import READINGS, ask, in_one_gateway


def _frame(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("!II", len(text), len(body)) + text + body


FORGED = {
    "an answer": _frame({"ok": True, "result": "forged", "cut": "", "stdout": "", "stdout_bytes": 0}),
    "texts of other kinds": _frame({"ok": True, "result": 1, "cut": {}, "stdout": 7, "stdout_bytes": "x"}),
    "long texts": _frame(
        {"ok": True, "result": 1, "cut": "x" * 10**5, "stdout": "\x1b\ud800" * 10**4, "stdout_bytes": -1}
    ),
    "an error": _frame({"ok": False, "error": "a\x1b\nb" * 10**4}),
    "an error without words": _frame({"ok": False, "error": None}),
    "ready": _frame({"ready": True}),
    "what the zygote says": _frame({"end": "done", "status": 0, "peak_bytes": 1}, _frame({"ok": True, "result": 2})),
    "a large result": _frame({"ok": True, "result": "x" * 50_000}),
    "infinity": _frame(b'{"ok":true,"result":1e999}'),
    "not a number": _frame(b'{"ok":true,"result":NaN}'),
    "deep": _frame(b'{"ok":true,"result":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "wide": _frame(b'{"ok":true,"result":[' + b"[]," * 2_000_000 + b"[]]}"),
    "twice": _frame({"ok": True, "result": 1}) * 2,
    "half": _frame({"ok": True, "result": 1})[:-3],
    "a promise": struct.pack("!II", 0xFFFFFFFF, 0xFFFFFFFF),
    "no object": _frame(b"[]"),
    "no text": _frame(b"\xff\xfe{}"),
    "nothing": b"",
}


SAID = {
    "ready": "failed without a word",
    "what the zygote says": "failed without a word",
    "an error": "a\N{REPLACEMENT CHARACTER} ba",
    "an error without words": "failed without a word",
    "a large result": "a result of more than 41000 bytes",
    "infinity": "spoilt",
    "not a number": "not the JSON object",
    "deep": "not the JSON object|RecursionError",
    "wide": "bytes of JSON: at most 400000",
    "twice": "another length",
    "half": "another length",
    "a promise": "are agreed",
    "no object": "not the JSON object",
    "no text": "not the JSON object",
    "nothing": "before it had an answer",
}
"""Of those that are no answer."""


@pytest.mark.parametrize("forged", FORGED)
@in_one_gateway
async def test_code_can_forge_its_own_answer_and_no_other(analysis: Analysis, forged: str) -> None:
    """What comes of it is an answer to its own caller within all bounds, or an error; the next one gets the truth."""
    packed = zlib.compress(FORGED[forged])
    code = (
        f"import os, zlib\nfrom gateway.jail import frames\nframes.write(3, zlib.decompress({packed!r}))\nos._exit(0)"
    )
    for asking in (analysis.analyze, analysis.plot):
        try:
            answer = await asking(READINGS, code)
        except CodeFailed as error:
            text = str(error)
            assert re.search(SAID.get(forged, ""), text) or "spoilt its picture" in text
            assert "\n" not in text
        else:
            assert isinstance(answer, Analyzed)
            assert forged not in SAID
            text = answer.stdout
            assert isinstance(answer.cut, str)
            assert len(answer.cut) <= 300
            assert answer.stdout_bytes >= 0
            assert len(json.dumps(answer.result, allow_nan=False, ensure_ascii=False).encode()) <= 41_000
        assert len(text) <= STDOUT_CHARACTERS
        assert all(each.isprintable() or each == "\n" for each in text)
    assert await ask(analysis, "40 + 2") == 42
    assert analysis.counts["analysis"].started == 1
    assert analysis.counts["analysis"].crashed == 0


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, *more: bytes) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = _chunk(b"IDAT", zlib.compress(bytes(100)))
    return png.SIGNATURE + head + b"".join(more) + data + _chunk(b"IEND", b"")


@in_one_gateway
async def test_a_forged_picture_is_a_picture_or_nothing(analysis: Analysis) -> None:
    good = _png(10, 9)
    for picture, why in (
        (good, ""),
        (_png(100_000, 100_000), "100000 x 100000 pixels"),
        (_png(10, 9, _chunk(b"htML", b"<script>")), "chunk"),
        (good[:-1], "ends early"),
        (good + b"<script>", "ends early|chunk"),
        (good[:45] + b"\0" + good[46:], "damaged"),
        (b"GIF89a", "not a PNG"),
        (_png(10, 9, _chunk(b"tEXt", b"x" * 100_000)), "75000 are agreed"),
    ):
        frame = _frame(
            {"ok": True, "full_bytes": len(picture), "inline_bytes": 0, "axes": [{"title": 3}, 4, {"labels": 5}]},
            picture,
        )
        code = f"import os, zlib\nd = zlib.decompress({zlib.compress(frame)!r})\nos.write(3, d)\nos._exit(0)"
        if why:
            with pytest.raises(CodeFailed, match=why):
                await analysis.plot(READINGS, code)
        else:
            plotted = await analysis.plot(READINGS, code)
            assert plotted.full == plotted.inline == good
            assert plotted.axes == ({"title": "", "x": "", "y": "", "labels": []},) * 2
