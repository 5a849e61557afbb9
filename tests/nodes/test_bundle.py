"""Manifests and bundles: what is taken, and one clear line for everything else."""

import json
import os
import random
import stat
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.nodes.ota import bundle
from gateway.nodes.ota.bundle import MANIFEST, SIGNATURE, BundleError
from gateway.nodes.ota.manifest import MANIFEST_BYTES, Kind, ManifestError, Part, compose, fits, newer, parse
from tests.nodes.bundles import IMAGE, KEY, PROGRAM, PUBLIC, STRANGER, built, manifest, written

Body = dict[str, Any]


def refusal(work: Callable[[], object]) -> str:
    """The line of a refusal, "" where there is none; any other exception is a defect."""
    try:
        work()
    except (BundleError, ManifestError) as error:
        return str(error)
    return ""


def test_a_manifest_comes_back_as_it_was() -> None:
    for about in (
        manifest(),
        manifest(mpy=6, files={"node/app.mpy": b"M\x06"}),
        manifest(files=IMAGE, kind=Kind.IMAGE),
    ):
        assert parse(compose(about)) == about


def test_versions_are_compared_as_three_numbers() -> None:
    assert newer("1.10.0", "1.9.9")
    assert newer("2.0.0", "1.99999.99999")
    assert not newer("1.4.0", "1.4.0")
    assert not newer("1.4.0", "1.4.1")
    for wrong in (
        "1.4",
        "1.4.0-rc1",
        "v1.4.0",
        "1.04.0",
        "1.4.100000",
        "1.4.0\n",
        "",
        "\N{ARABIC-INDIC DIGIT ONE}.0.0",
    ):
        with pytest.raises(ManifestError, match="three numbers"):
            newer(wrong, "1.0.0")


def test_another_board_is_another_board() -> None:
    assert fits(manifest(), "esp32s3")
    assert not fits(manifest(), "esp32c3")
    assert not fits(manifest(), "")


def changed(**some: Any) -> bytes:
    body: Body = json.loads(compose(manifest()))
    return json.dumps({key: value for key, value in (body | some).items() if value is not ...}).encode()


def of_file(**some: Any) -> bytes:
    return changed(files=[{"path": "node/app.py", "bytes": 1, "sha256": "0" * 64} | some])


def of_paths(*paths: str, mpy: int | None = 6) -> bytes:
    return changed(files=[{"path": path, "bytes": 1, "sha256": "0" * 64} for path in paths], mpy=mpy)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "no JSON"),
        (b"[]", "one JSON object"),
        (b"[" * 10_000, "no JSON"),
        ("{\N{SNOWMAN}}".encode(), "no JSON in ASCII"),
        (b"{}" + b" " * MANIFEST_BYTES, "a node reads at most"),
        (b'{"format":1,"format":1}', "twice"),
        (b'{"format":NaN}', "no number"),
        (changed(format=2), "reads format 1"),
        (changed(format=True), "reads format 1"),
        (changed(mpy=...), "'mpy' is missing"),
        (changed(more=1), "'more' is missing or too much"),
        (changed(kind="rootfs"), "one of files, image"),
        (changed(kind=["files"]), "one of files, image"),
        (changed(version=1.4), "three numbers"),
        (changed(version="1.4"), "three numbers"),
        (changed(board="esp32"), "list of 1 to 16"),
        (changed(board=[]), "list of 1 to 16"),
        (changed(board=["ESP32"]), "is no name"),
        (changed(board=["esp32", "esp32"]), "twice"),
        (changed(mpy=0), "version of the compiled files"),
        (changed(mpy=True), "version of the compiled files"),
        (changed(created="2026-11-20"), "is no time"),
        (changed(created="2026-02-30T12:00:00Z"), "is no time"),
        (changed(files=[]), "list of 1 to 100"),
        (changed(files=["node/app.py"]), "object of path, bytes and sha256"),
        (of_file(path=7), "is no text"),
        (of_file(bytes=-1), "whole number"),
        (of_file(bytes=1.0), "whole number"),
        (of_file(bytes=1 << 40), "whole number"),
        (of_file(bytes=257 << 10), "at most 262144"),
        (of_file(sha256="0" * 63), "64 hexadecimal"),
        (of_file(sha256="A" * 64), "64 hexadecimal"),
        (of_paths("node/app.py", "/node/x"), "breaks the rule"),
        (of_paths("node/app.py", "node/../x"), "breaks the rule"),
        (of_paths("node/app.py", "node/./x"), "breaks the rule"),
        (of_paths("node/app.py", "node//x"), "breaks the rule"),
        (of_paths("node/app.py", "node/x/"), "breaks the rule"),
        (of_paths("node/app.py", "node"), "breaks the rule"),
        (of_paths("node/app.py", "main.py"), "breaks the rule"),
        (of_paths("node/app.py", "node/.hidden"), "breaks the rule"),
        (of_paths("node/app.py", "node/a b"), "breaks the rule"),
        (of_paths("node/app.py", "node/a\\b"), "breaks the rule"),
        (of_paths("node/app.py", "node/a\n"), "breaks the rule"),
        (of_paths("node/app.py", "node/" + "a" * 60), "breaks the rule"),
        (of_paths("node/app.py", "node/app.mpy"), "one file or one module"),
        (of_paths("node/app.py", "node/app.py"), "one file or one module"),
        (of_paths("node/app.py", "node/APP.py"), "one file or one module"),
        (of_paths("node/app.py", "node/x", "node/x/y"), "a file and a folder"),
        (of_paths("node/wire.py"), "the slot cannot start"),
        (of_paths("node/app.mpy", mpy=None), "is compiled"),
        (changed(kind="image", mpy=6), "exactly one file"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused_in_one_line(content: bytes, rule: str) -> None:
    with pytest.raises(ManifestError, match=rule) as refused:
        parse(content)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def test_what_is_composed_keeps_the_rules_too() -> None:
    with pytest.raises(ManifestError, match="breaks the rule"):
        compose(manifest(files={"node/app.py": b"", "node/../x": b""}))
    many = [Part("node/app.py", 0, "0" * 64), *(Part(f"node/m{n}.py", 256 << 10, "0" * 64) for n in range(5))]
    with pytest.raises(ManifestError, match="fit on a board"):
        parse(changed(files=[{"path": each.path, "bytes": each.size_bytes, "sha256": each.sha256} for each in many]))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_stands_in_a_manifest_is_a_value_or_one_line(content: bytes) -> None:
    with pytest.raises(ManifestError):
        parse(content)


@given(st.data())
@settings(max_examples=150)
def test_any_json_is_a_manifest_or_one_line(data: st.DataObject) -> None:
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    )
    key = data.draw(st.sampled_from(["format", "kind", "version", "board", "mpy", "created", "files"]))
    content = changed(**{key: data.draw(anything)})
    assert refusal(lambda: compose(parse(content))).isprintable()


def test_a_bundle_comes_back_as_it_was_built(tmp_path: Path) -> None:
    for about, files in ((manifest(), PROGRAM), (manifest(files=IMAGE, kind=Kind.IMAGE), IMAGE)):
        found = bundle.read(written(tmp_path, built(about, files)), [bundle.public_hex(STRANGER), PUBLIC])
        assert (found.manifest, found.files, found.signed_by) == (about, files, PUBLIC)
        assert built(about, files) == built(about, files)


def test_only_the_trusted_keys_count() -> None:
    with pytest.raises(BundleError, match=r"no key is trusted yet: `gateway firmware trust"):
        bundle.check(built(), [])
    with pytest.raises(BundleError, match="none of the 1 trusted keys signed it"):
        bundle.check(built(key=STRANGER), [PUBLIC])
    content = compose(manifest())
    forged = {MANIFEST: content, SIGNATURE: KEY.sign(content + b" "), **PROGRAM}
    with pytest.raises(BundleError, match="none of the 1 trusted keys signed it"):
        bundle.check(bundle.pack(forged), [PUBLIC])


def test_one_flipped_bit_is_refused_or_changes_nothing() -> None:
    whole = built()
    good, kept = bundle.check(whole, [PUBLIC]), 0
    for bit in random.Random(1).sample(range(len(whole) * 8), 5000):
        bad = bytearray(whole)
        bad[bit // 8] ^= 1 << bit % 8
        found: list[bundle.Bundle] = []
        line = refusal(lambda content=bytes(bad), found=found: found.append(bundle.check(content, [PUBLIC])))
        assert line.isprintable()
        assert found in ([], [good])
        kept += bool(found)
    assert kept < 2000  # dates, modes and the like, which nobody reads


def test_a_bundle_that_is_cut_off_or_has_something_behind_it_is_refused() -> None:
    whole = built()
    for end in range(0, len(whole), 7):
        with pytest.raises(BundleError):
            bundle.check(whole[:end], [PUBLIC])
    with pytest.raises(BundleError, match="hangs behind"):
        bundle.check(whole + b"x", [PUBLIC])


@given(st.data())
@settings(max_examples=200)
def test_pieces_of_a_bundle_in_any_order_are_a_bundle_or_one_line(data: st.DataObject) -> None:
    whole = built()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    mixed = b"".join(data.draw(st.permutations(pieces))) + data.draw(st.binary(max_size=30))
    found: list[bundle.Bundle] = []
    assert refusal(lambda: found.append(bundle.check(mixed, [PUBLIC]))).isprintable()
    assert found in ([], [bundle.check(whole, [PUBLIC])])


def made(change: Callable[[zipfile.ZipFile, dict[str, bytes]], None]) -> bytes:
    """A signed bundle whose zip was made by other hands."""
    content = compose(manifest())
    target = BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        change(archive, {MANIFEST: content, SIGNATURE: KEY.sign(content), **PROGRAM})
    return target.getvalue()


def put(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        archive.writestr(name, content)


def compressed(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    bomb = files | {"node/app.py": bytes(100 << 20)}
    for name, content in bomb.items():
        archive.writestr(name, content, zipfile.ZIP_DEFLATED)


def twice(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    put(archive, files)
    with pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("node/app.py", b"another")


def linked(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    about = zipfile.ZipInfo("node/app.py")
    about.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(about, files.pop("node/app.py"))
    put(archive, files)


def with_folder(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    archive.mkdir("node")
    put(archive, files)


def described(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    about = zipfile.ZipInfo("node/app.py")
    about.comment = bytes(60_000)
    archive.writestr(about, files.pop("node/app.py"))
    put(archive, files)


def many(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    put(archive, files | {f"node/{n}.txt": b"" for n in range(200)})


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (compressed, "compressed or encrypted"),
        (twice, "in it twice"),
        (linked, "no plain file"),
        (with_folder, "no plain file"),
        (many, "at most 102"),
        (described, "at most 102"),
    ],
)
def test_tricks_with_zips_are_refused(change: Callable[[zipfile.ZipFile, dict[str, bytes]], None], rule: str) -> None:
    with pytest.raises(BundleError, match=rule):
        bundle.check(made(change), [PUBLIC])


@pytest.mark.parametrize(
    ("other", "rule"),
    [
        ({"../evil": b""}, "'../evil' is not in its manifest"),
        ({"/etc/evil": b""}, "'/etc/evil' is not in its manifest"),
        ({"node/more.py": b""}, "'node/more.py' is not in its manifest"),
        ({"node/app.py": None}, "node/app.py is missing"),
        ({SIGNATURE: None}, "manifest.sig is missing"),
        ({MANIFEST: None}, "manifest.json is missing"),
        ({"node/app.py": b"#" * 421}, "has 421 bytes, its manifest says 420"),
        ({"node/app.py": b"#" * 420}, "another SHA-256"),
        ({SIGNATURE: b"0" * 65}, "at most 64 are read"),
        ({MANIFEST: b" " * 20_000}, "at most 16384 are read"),
    ],
)
def test_a_bundle_has_the_files_of_its_manifest_and_no_others(other: dict[str, bytes | None], rule: str) -> None:
    def change(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
        put(archive, {name: content for name, content in (files | other).items() if content is not None})

    with pytest.raises(BundleError, match=rule):
        bundle.check(made(change), [PUBLIC])


def test_sizes_that_lie_are_refused_before_anything_is_read() -> None:
    whole = bytearray(built())
    at = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 4)  # manifest.sig in the central directory
    struct.pack_into("<LL", whole, at + 20, 0xFFFFFFF0, 0xFFFFFFF0)
    with pytest.raises(BundleError, match="at most 64 are read"):
        bundle.check(bytes(whole), [PUBLIC])
    flagged = bytearray(built())
    struct.pack_into("<H", flagged, flagged.index(b"PK\x01\x02") + 8, 8)  # sizes come after the content
    with pytest.raises(BundleError, match="compressed or encrypted"):
        bundle.check(bytes(flagged), [PUBLIC])
    large = bytearray(built())
    large[-22:-22] = b"PK\x06\x07" + bytes(16)  # another end, far away, where sizes have 64 bits
    (size,) = struct.unpack_from("<L", large, len(large) - 10)
    struct.pack_into("<L", large, len(large) - 10, size + 20)
    with pytest.raises(BundleError, match="more than 4 GB"):
        bundle.check(bytes(large), [PUBLIC])
    end = bytearray(built())
    struct.pack_into("<HH", end, len(end) - 14, 60_000, 60_000)
    with pytest.raises(BundleError, match="at most 102"):
        bundle.check(bytes(end), [PUBLIC])


def test_an_image_is_one_of_a_program(tmp_path: Path) -> None:
    text = {"micropython.bin": b"#!/bin/sh\n"}
    with pytest.raises(BundleError, match="0xE9"):
        bundle.read(written(tmp_path, built(manifest(files=text, kind=Kind.IMAGE), text)), [PUBLIC])


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    huge = tmp_path / "huge"
    with huge.open("wb") as stream:
        stream.truncate(1 << 40)
    for place, rule in (
        (tmp_path, "is no file"),
        (tmp_path / "pipe", "is no file"),
        (tmp_path / "none", "No such file"),
        (huge, "which no bundle has"),
    ):
        with pytest.raises(BundleError, match=rule) as refused:
            bundle.read(place, [PUBLIC])
        assert str(place) in str(refused.value)
