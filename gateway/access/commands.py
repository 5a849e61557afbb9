"""Tokens and nodes' keys as typed commands of the control layer."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from gateway.access.logins import MOST_TOPICS, Issued
from gateway.access.principal import Scope
from gateway.command import Command, Destructive, Would, Write
from gateway.store.types import TokenRow

NodeId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class TokenCreate(Write):
    command: Literal["create_token"] = "create_token"
    name: Annotated[str, Field(min_length=1, max_length=64)]
    scope: Literal["read", "control", "admin"]
    expires_days: Annotated[int, Field(ge=1, le=36_500)] | None = None

    @property
    def target(self) -> str:
        return self.name

    @property
    def detail(self) -> str:
        return f"scope {self.scope}"


class TokenList(Command):
    command: Literal["list_tokens"] = "list_tokens"


class TokenRevoke(Destructive):
    command: Literal["revoke_token"] = "revoke_token"
    name: str

    @property
    def target(self) -> str:
        return self.name


class TokenRotate(Destructive):
    """Another secret for a token; the one before ends at once."""

    command: Literal["rotate_token"] = "rotate_token"
    name: str

    @property
    def target(self) -> str:
        return self.name


class OfNode(Write):
    """A write whose target is a node, or another device with a login at the broker."""

    device: NodeId

    @property
    def target(self) -> str:
        return self.device


class NodeAdd(OfNode):
    """Give a node its login at the broker and its key, by which it tells our acknowledgements from a false broker's.
    With topics it is a device of another maker, which may write and read these and has no key."""

    command: Literal["add_node"] = "add_node"
    write: Annotated[tuple[str, ...], Field(max_length=MOST_TOPICS)] = ()
    read: Annotated[tuple[str, ...], Field(max_length=MOST_TOPICS)] = ()

    @property
    def detail(self) -> str:
        words = [f"write {topic}" for topic in self.write] + [f"read {topic}" for topic in self.read]
        return ", ".join(words)[:500]


class NodeAddPreview(Would):
    """`ends` says whether the node has a login or a key already, which would end."""

    ends: bool


class NodeRotate(OfNode):
    """Another password for a login, and with `key` another key for the node; the ones before end at once."""

    command: Literal["rotate_node_login"] = "rotate_node_login"
    key: bool = False

    @property
    def detail(self) -> str:
        return "with the key" if self.key else ""


class NodeRevoke(Destructive):
    """End a login, and the node's key with it; who uses it is disconnected at once."""

    command: Literal["revoke_node_login"] = "revoke_node_login"
    device: NodeId

    @property
    def target(self) -> str:
        return self.device


class NodeLogins(Command):
    command: Literal["list_node_logins"] = "list_node_logins"


class ViewAuthority(Command):
    """The certificate authority of the broker's TLS port, made at its first use."""

    command: Literal["view_authority"] = "view_authority"


class NodeIssued(BaseModel):
    """New secrets, shown this once; None where there is none or it stays as it was."""

    device: str
    key: str | None
    user: str | None
    password: str | None
    note: str = ""

    @classmethod
    def of(cls, issued: Issued) -> "NodeIssued":
        user = issued.user if issued.password is not None else None
        return cls(device=issued.user, key=issued.key, user=user, password=issued.password, note=issued.note)


class NodeLoginView(BaseModel):
    """A login without its secrets. `connected_since` is None where it is not connected, or nobody here can know."""

    device: str
    kind: str
    created: datetime
    rotated: datetime | None
    revoked: datetime | None
    has_key: bool
    connected_since: datetime | None
    last_heard: datetime | None
    may_write: list[str]
    may_read: list[str]


class NodeLoginViews(BaseModel):
    """`note`: why nobody has to log in, where that is so."""

    logins: list[NodeLoginView]
    note: str = ""


class AuthorityView(BaseModel):
    """`pem` is the certificate that nodes trust; `der_base64` the same in the form that they read."""

    pem: str
    der_base64: str


class TokenView(BaseModel):
    """A token without its secret. `renewed_until`: until when its app may go on beyond `expires` by itself."""

    name: str
    scope: str
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    last_used: datetime | None
    renewed_until: datetime | None = None

    @classmethod
    def of(cls, row: TokenRow, renewed_until: datetime | None = None) -> "TokenView":
        return cls(
            name=row.name,
            scope=str(Scope(row.scope)),
            created=row.created,
            expires=row.expires,
            revoked=row.revoked,
            last_used=row.last_used,
            renewed_until=renewed_until,
        )


class TokenViews(BaseModel):
    tokens: list[TokenView]
