"""/files over real HTTP: who may, ranges, conditions, and uploads that break off."""

import asyncio
import os
import random
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest

from gateway.store.queries import audit_rows
from tests.files.shelf import PARTIAL, Shelf, shelf
from tests.web.house import in_a_task

CONTENT = random.Random(3).randbytes(200_000)
ETAG = f'"{sha256(CONTENT).hexdigest()}"'


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Shelf]:
    async with in_a_task(shelf(tmp_path)) as built:
        yield built


def digest(content: bytes) -> dict[str, str]:
    return {"repr-digest": f"sha-256=:{b64encode(sha256(content).digest()).decode()}:"}


async def put(home: Shelf, content: bytes = CONTENT, name: str = "x.bin", kind: str = "text/html") -> str:
    entry = await home.files.put(name, kind, content, owner=home.owners["anna"], lives_s=600)
    return f"/files/{entry.file_id}"


async def test_a_download_is_whole_named_and_inert(home: Shelf) -> None:
    link = await put(home, name="Größe \N{SNOWMAN}.html")
    async with home.client() as http:
        got, head = await http.get(link), await http.head(link)
    assert (got.status_code, got.content) == (200, CONTENT)
    headers = got.headers
    assert headers["etag"] == ETAG
    assert headers["repr-digest"] == digest(CONTENT)["repr-digest"]
    assert headers["content-type"].startswith("text/html")
    assert headers["content-disposition"] == "attachment; filename*=utf-8''Gr%C3%B6%C3%9Fe%20%E2%98%83.html"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "private, no-cache"
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "200000")
    assert (head.headers["upload-complete"], head.headers["upload-offset"]) == ("?1", "200000")


async def test_a_picture_may_be_shown_by_a_browser(home: Shelf) -> None:
    link = await put(home, b"\x89PNG", "plot.png", "image/png")
    async with home.client() as http:
        assert (await http.get(link)).headers["content-disposition"] == 'inline; filename="plot.png"'


async def test_only_the_owner_and_an_admin_and_only_for_a_time(home: Shelf) -> None:
    link = await put(home)
    status = {}
    for who in ("anna", "ben", "rita", "root"):
        async with home.client(who) as http:
            status[who] = [(await http.request(method, link)).status_code for method in ("GET", "HEAD")]
    assert status == {"anna": [200, 200], "ben": [404, 404], "rita": [404, 404], "root": [200, 200]}
    async with home.client("ben") as http:
        theirs, none = await http.get(link), await http.get("/files/AAAAAAAAAAAAAAAAAAAAAA")
        assert theirs.json() == none.json()
        assert (await http.delete(link)).status_code == 404
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{home.port}") as stranger:
        assert (await stranger.get(link)).status_code == 401
        assert (await stranger.post("/files", content=b"x")).status_code == 401
    home.clock.time += timedelta(seconds=600)
    async with home.client() as http:
        assert (await http.get(link)).status_code == 404


async def test_ranges_are_what_slices_are(home: Shelf) -> None:
    link = await put(home)
    chance = random.Random(11)
    async with home.client() as http:
        for _ in range(40):
            first, last = sorted(chance.randrange(len(CONTENT)) for _ in range(2))
            got = await http.get(link, headers={"range": f"bytes={first}-{last}"})
            assert (got.status_code, got.content) == (206, CONTENT[first : last + 1])
            assert got.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"
        tail = await http.get(link, headers={"range": "bytes=-5"})
        rest = await http.get(link, headers={"range": "bytes=199990-"})
        beyond = await http.get(link, headers={"range": "bytes=199990-999999"})
        outside = await http.get(link, headers={"range": "bytes=200000-"})
        several = await http.get(link, headers={"range": "bytes=0-1,10-11"})
    assert (tail.content, rest.content, beyond.content) == (CONTENT[-5:], CONTENT[-10:], CONTENT[-10:])
    assert (outside.status_code, outside.headers["content-range"]) == (416, "bytes */200000")
    assert several.headers["content-type"].startswith("multipart/byteranges")
    assert CONTENT[:2] in several.content


async def test_conditions(home: Shelf) -> None:
    link = await put(home)
    part = {"range": "bytes=0-9"}
    async with home.client() as http:
        same = await http.get(link, headers=part | {"if-range": ETAG})
        other = await http.get(link, headers=part | {"if-range": '"another"'})
        known = await http.get(link, headers={"if-none-match": ETAG})
    assert (same.status_code, len(same.content)) == (206, 10)
    assert (other.status_code, len(other.content)) == (200, len(CONTENT))
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", ETAG)


async def test_a_download_broken_off_goes_on(home: Shelf) -> None:
    link = await put(home)
    async with home.client() as http, http.stream("GET", link) as got:
        start = await anext(got.aiter_bytes(50_000))
    async with home.client() as http:
        rest = await http.get(link, headers={"range": f"bytes={len(start)}-", "if-range": got.headers["etag"]})
    assert start + rest.content == CONTENT


async def test_the_whole_in_one_post(home: Shelf) -> None:
    headers = {"content-type": "application/x-firmware", "content-disposition": 'attachment; filename="node 1.bin"'}
    async with home.client() as http:
        made = await http.post("/files", content=CONTENT, headers=headers | digest(CONTENT))
        got = await http.get(made.headers["location"])
    assert (made.status_code, made.headers["upload-complete"], got.content) == (201, "?1", CONTENT)
    said = made.json()
    assert (said["name"], said["media_type"]) == ("node 1.bin", "application/x-firmware")
    assert (said["size_bytes"], said["sha256"]) == (200_000, sha256(CONTENT).hexdigest())
    assert said["link"] == made.headers["location"] == f"/files/{said['file_id']}"


async def test_an_upload_in_pieces_over_http(home: Shelf) -> None:
    async with home.client() as http:
        begun = await http.post(
            "/files", headers={"upload-complete": "?0", "upload-length": "200000"} | digest(CONTENT)
        )
        link = begun.headers["location"]
        assert (begun.status_code, begun.headers["upload-offset"]) == (201, "0")
        assert "max-size=300000" in begun.headers["upload-limit"]
        assert "max-age=86400" in begun.headers["upload-limit"]
        first = await http.patch(
            link, content=CONTENT[:70_000], headers=PARTIAL | {"upload-offset": "0", "upload-complete": "?0"}
        )
        assert (first.status_code, first.headers["upload-offset"]) == (204, "70000")
        assert (await http.get(link)).status_code == 409
        again = await http.patch(
            link, content=CONTENT[:70_000], headers=PARTIAL | {"upload-offset": "0", "upload-complete": "?0"}
        )
        assert (again.status_code, again.headers["upload-offset"]) == (409, "70000")
        assert again.headers["content-type"] == "application/problem+json"
        assert (again.json()["expected-offset"], again.json()["provided-offset"]) == (70_000, 0)
        head = await http.head(link)
        assert (head.status_code, head.headers["upload-offset"], head.headers["upload-complete"]) == (
            204,
            "70000",
            "?0",
        )
        assert (head.headers["upload-length"], head.headers["cache-control"]) == ("200000", "no-store")
        last = await http.put(
            link, content=CONTENT[70_000:], headers={"upload-offset": "70000", "upload-complete": "?1"}
        )
        assert (last.status_code, last.headers["upload-complete"]) == (201, "?1")
        assert (await http.get(link)).content == CONTENT
        more = await http.patch(
            link, content=b"x", headers=PARTIAL | {"upload-offset": "200000", "upload-complete": "?1"}
        )
        assert (more.status_code, more.json()["type"].rpartition("#")[2]) == (400, "completed-upload")


async def test_a_connection_that_breaks_in_the_midst_of_a_piece(home: Shelf) -> None:
    """The client dies after part of the declared body; what came is kept, and the rest follows."""
    async with home.client() as http:
        link = (await http.post("/files", headers={"upload-complete": "?0"})).headers["location"]
        head = (
            f"PATCH {link} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {home.tokens['anna']}\r\n"
            "content-type: application/partial-upload\r\nupload-offset: 0\r\nupload-complete: ?1\r\n"
            "content-length: 200000\r\n\r\n"
        )
        _, writer = await asyncio.open_connection("127.0.0.1", home.port)
        writer.write(head.encode() + CONTENT[:100_000])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        offset = int((await http.head(link)).headers["upload-offset"])
        assert offset <= 100_000
        done = await http.patch(
            link, content=CONTENT[offset:], headers=PARTIAL | {"upload-offset": str(offset), "upload-complete": "?1"}
        )
        assert done.status_code == 201
        assert (await http.get(link)).content == CONTENT


async def test_a_whole_file_that_breaks_off_leaves_nothing(home: Shelf) -> None:
    """Its sender never heard where it is, so it cannot go on."""
    head = (
        f"POST /files HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {home.tokens['anna']}\r\n"
        "content-length: 200000\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", home.port)
    writer.write(head.encode() + CONTENT[:100_000])
    async with home.client() as http, asyncio.timeout(10):
        while not home.files.count:
            await http.options("/files")
        writer.close()
        while home.files.count:
            await http.options("/files")
    assert home.files.stored_bytes == 0


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        (digest(b"other"), 422, "declared was"),
        ({"repr-digest": "sha-256=:short:"}, 422, "is no digest"),
        ({"upload-length": "8", "upload-complete": "?1"}, 400, "were declared"),
        ({"upload-length": "300001", "upload-complete": "?0"}, 413, "at most 300000 bytes"),
    ],
)
async def test_a_post_that_is_refused_leaves_nothing(
    home: Shelf, headers: dict[str, str], status: int, said: str
) -> None:
    async with home.client() as http:
        answer = await http.post("/files", content=b"content", headers=headers)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text
    assert (home.files.count, home.files.stored_bytes) == (0, 0)


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Path]:
    """A folder whose files lie on a medium of 256 KiB."""
    place = tmp_path / "data" / "files"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", place], check=True, capture_output=True)
    yield tmp_path
    subprocess.run(["umount", place], check=True, capture_output=True)


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts a medium of its own")
async def test_a_full_medium_is_said_and_what_came_is_kept(medium: Path) -> None:
    async with in_a_task(shelf(medium)) as small, small.client() as http:
        link = (await http.post("/files", headers={"upload-complete": "?0"})).headers["location"]
        full = await http.post("/files", content=bytes(290_000))
        assert (full.status_code, "make room" in full.text, small.files.count) == (507, True, 1)
        piece = PARTIAL | {"upload-offset": "0", "upload-complete": "?0"}
        assert (await http.patch(link, content=bytes(290_000), headers=piece)).status_code == 507
        assert 0 < int((await http.head(link)).headers["upload-offset"]) <= 262_144
        assert (await http.delete(link)).status_code == 204
        assert (await http.post("/files", content=CONTENT)).status_code == 201


async def test_a_full_share_is_said(home: Shelf) -> None:
    async with home.client() as http:
        for _ in range(2):
            assert (await http.post("/files", content=CONTENT)).status_code == 201
        full = await http.post("/files", content=CONTENT)
    assert (full.status_code, full.json()["error"]) == (507, "NoRoom")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"upload-offset": "0", "upload-complete": "?1"}, 415),
        (PARTIAL | {"upload-complete": "?1"}, 400),
        (PARTIAL | {"upload-offset": "0"}, 400),
        (PARTIAL | {"upload-offset": "-1", "upload-complete": "?1"}, 400),
        (PARTIAL | {"upload-offset": "9" * 99, "upload-complete": "?1"}, 400),
        (PARTIAL | {"upload-offset": "5", "upload-complete": "?1"}, 409),
    ],
)
async def test_a_piece_that_says_too_little(home: Shelf, headers: dict[str, str], status: int) -> None:
    async with home.client() as http:
        link = (await http.post("/files", headers={"upload-complete": "?0"})).headers["location"]
        assert (await http.patch(link, content=b"x", headers=headers)).status_code == status
        assert (await http.head(link)).headers["upload-offset"] == "0"


async def test_readers_do_not_upload_and_writes_leave_a_trace(home: Shelf) -> None:
    async with home.client("rita") as reader:
        refused = await reader.post("/files", content=b"x", headers={"content-disposition": 'inline; filename="r.bin"'})
    async with home.client("anna") as http:
        link = (await http.post("/files", content=b"x")).headers["location"]
        assert (await http.delete(link)).status_code == 204
        assert (await http.get(link)).status_code == 404
    assert (refused.status_code, "needs scope control" in refused.text) == (403, True)
    rows = [(row.principal, row.action, row.target, row.allowed) for row in await audit_rows(home.store)]
    assert rows == [
        ("anna", "remove_file", link.removeprefix("/files/"), True),
        ("anna", "upload_file", "upload", True),
        ("rita", "upload_file", "r.bin", False),
    ]


async def test_what_uploads_are_like_is_told(home: Shelf) -> None:
    async with home.client() as http:
        told = await http.options("/files")
        assert (told.status_code, told.headers["accept-patch"]) == (204, "application/partial-upload")
        assert told.headers["upload-limit"] == "max-size=300000"
        assert (await http.get("/files")).status_code == 405


async def test_random_headers_never_break_it(home: Shelf) -> None:
    link = await put(home)
    chance = random.Random(17)
    names = ["range", "if-range", "if-none-match", "upload-offset", "upload-complete", "upload-length", "repr-digest"]
    names += ["content-type", "content-disposition"]
    pieces = [
        "bytes=",
        "0-",
        "-",
        ",",
        "?1",
        "?0",
        "sha-256=:",
        "=",
        ";",
        "filename*=utf-8''%ff",
        'filename="',
        "9" * 30,
    ]
    pieces += ["application/partial-upload", "\xe9", " ", "W/", '"', "*", "filename*=x'y'%"]
    async with home.client() as http:
        for _ in range(150):
            some = {
                name: "".join(chance.choices(pieces, k=chance.randrange(1, 5))).strip()
                for name in chance.sample(names, k=3)
            }
            sent = {name.encode(): value.encode("latin-1") for name, value in some.items()}
            method, path = chance.choice(
                [("GET", link), ("HEAD", link), ("POST", "/files"), ("PATCH", link), ("PUT", link)]
            )
            answer = await http.request(method, path, headers=sent, content=b"x" if method[0] == "P" else None)
            assert answer.status_code < 500 or answer.status_code == 507, (method, some, answer.text)
