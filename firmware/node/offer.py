"""What an offer and a manifest have to be before this node takes them. Loaded while there is one, and forgotten."""

from micropython import const

from node import slots

_MANIFEST_MOST = const(16384)
_PATH_MOST = const(64)
DIGITS = "0123456789abcdef"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"


class Refused(ValueError):
    """Why it is not taken; one line."""


def expect(holds, why):
    """Refused where it does not hold."""
    if not holds:
        raise Refused(why)


def expect_offer(body, board):
    """Refused unless this node may take the offer; `board` is what the capabilities tell."""
    version, size, boards = body.get("version"), body.get("manifest_bytes"), body.get("board")
    found, runs = slots.numbers(version), slots.version()
    expect(found, "the version is three numbers")
    expect(found > slots.numbers(runs), "version %s is not above %s, which runs" % (version, runs))
    expect(isinstance(boards, list) and board["board"] in boards, "it is not for this board, %s" % board["board"])
    expect(body.get("kind") in ("files", "image"), "kind is files or image")
    expect(body["kind"] in board["slots"].split(","), "this board has no second partition for an image")
    expect(body["kind"] == "image" or slots.running(), "the program was not started from a slot")
    expect(is_size(size) and 0 < size <= _MANIFEST_MOST, "a manifest has 1 to %d bytes" % _MANIFEST_MOST)
    expect(is_hash(body.get("manifest_sha256")), "manifest_sha256 is 64 hexadecimal digits")
    host, port = body.get("host"), body.get("port")
    expect(isinstance(host, str) and len(host) < 254 and is_size(port) and port < 65536, "no place to download from")
    expect(isinstance(body.get("tls"), bool), "tls is true or false")


def expect_manifest(manifest, about, board):
    """Refused unless a manifest, whose hash is right, is for this node and of this offer (`about`)."""
    files = manifest.get("files") if isinstance(manifest, dict) else None
    expect(files and isinstance(files, list) and manifest.get("format") == 1, "the manifest's format is not known here")
    expect(manifest.get("version") == about["version"], "the manifest is of another version than the offer")
    expect(manifest.get("kind") == about["kind"], "the manifest is of another kind than the offer")
    expect(board["board"] in manifest.get("board", ()), "the manifest is not for this board, %s" % board["board"])
    mpy = manifest.get("mpy")
    expect(mpy in (None, board["mpy"]), ".mpy files of version %s, this MicroPython loads %s" % (mpy, board["mpy"]))
    for each in files:
        expect(is_size(each.get("bytes")) and is_hash(each.get("sha256")), "a file has bytes and sha256")
        expect(is_path(each.get("path")), "a file cannot be called %r" % str(each.get("path"))[:40])
        is_inside = each["path"].startswith("node/") or about["kind"] == "image"
        expect(is_inside, "%s is outside of node/" % each["path"])
    is_image = about["kind"] == "image"
    expect(not is_image or [each["path"] for each in files] == ["micropython.bin"], "an image is one micropython.bin")


def is_size(value):
    """Whether it is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_hash(value):
    """Whether it is a SHA-256 in hexadecimal."""
    return isinstance(value, str) and len(value) == 64 and not [c for c in value if c not in DIGITS]


def is_path(value):
    """Whether a file may be called so: no part of it is empty or begins with a dot."""
    if not isinstance(value, str) or not 0 < len(value) <= _PATH_MOST:
        return False
    parts = value.split("/")
    return all([part and part[0] not in ".-" and not [c for c in part if c not in _LETTERS] for part in parts])
