"""Tokens and nodes' keys as typed commands of the control layer."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from gateway.access.principal import Scope
from gateway.command import Command, Destructive, Write
from gateway.store.types import TokenRow


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


class NodeAdd(Write):
    """Give a node its key, so that it can tell our acknowledgements from a false broker's."""

    command: Literal["add_node"] = "add_node"
    device: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]

    @property
    def target(self) -> str:
        return self.device


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
