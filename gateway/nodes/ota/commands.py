"""Firmware as typed commands of the control layer: whose bundles are taken, and which are here."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from gateway.command import Command, Destructive, Write

Text = Annotated[str, Field(min_length=1, max_length=128)]


class FirmwareTrust(Write):
    """Take bundles that this key (Ed25519, 64 hexadecimal digits) signed."""

    command: Literal["trust_firmware_key"] = "trust_firmware_key"
    key: Text
    name: Text

    @property
    def target(self) -> str:
        return self.name

    @property
    def detail(self) -> str:
        return f"key {self.key}"


class FirmwareDistrust(Write):
    """Take no more bundles of a key (by its name or itself), and give its bundles to nobody."""

    command: Literal["distrust_firmware_key"] = "distrust_firmware_key"
    key: Text

    @property
    def target(self) -> str:
        return self.key


class FirmwareKeys(Command):
    command: Literal["list_firmware_keys"] = "list_firmware_keys"


class FirmwareAdd(Write):
    """Take a bundle in: the gateway reads `file`, an absolute path on its own machine, and checks all of it."""

    command: Literal["add_firmware"] = "add_firmware"
    file: Annotated[str, Field(pattern=r"^/[^\x00]*$", max_length=4096)]

    @property
    def target(self) -> str:
        return self.file.rpartition("/")[2]


class FirmwareList(Command):
    command: Literal["list_firmware"] = "list_firmware"


class FirmwareRemove(Destructive):
    """Forget a bundle, by its version or the beginning of its digest."""

    command: Literal["remove_firmware"] = "remove_firmware"
    firmware: Text

    @property
    def target(self) -> str:
        return self.firmware


class KeyView(BaseModel):
    key: str
    name: str
    added: datetime
    added_by: str


class KeyViews(BaseModel):
    keys: list[KeyView]


class FirmwareView(BaseModel):
    """A bundle, known by the SHA-256 of its manifest; `signed_by` is the key's name, or the key where it is not
    `trusted` any more: then no node is given it. `mpy` is null for sources and images."""

    digest: str
    version: str
    boards: list[str]
    kind: str
    mpy: int | None
    files: int
    size_bytes: int
    created: datetime
    added: datetime
    added_by: str
    signed_by: str
    trusted: bool
    in_use: str = ""


class FirmwareViews(BaseModel):
    firmware: list[FirmwareView]
