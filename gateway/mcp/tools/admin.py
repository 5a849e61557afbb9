"""Tools for admins: who may come in."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from pydantic import Field

from gateway.access.commands import TokenCreate, TokenList, TokenRevoke
from gateway.mcp.tools.acting import Acting
from gateway.mcp.tools.base import Confirm, DryRun
from gateway.mcp.tools.control import Result


class AdminTools(Acting):
    """Each makes one command."""

    def functions(self) -> Sequence[Callable[..., Any]]:
        return (self.list_tokens, self.create_token, self.revoke_token)

    async def list_tokens(self, ctx: Context) -> Result:
        """Every token, without its secret."""
        return await self._do(ctx, TokenList)

    async def create_token(
        self,
        ctx: Context,
        name: str,
        scope: Literal["read", "control", "admin"],
        expires_days: Annotated[int | None, Field(ge=1)] = None,
        *,
        dry_run: DryRun = False,
    ) -> Result:
        """Make a token; its secret is shown this once."""
        return await self._do(ctx, TokenCreate, name=name, scope=scope, expires_days=expires_days, dry_run=dry_run)

    async def revoke_token(
        self, ctx: Context, name: str, *, dry_run: DryRun = False, confirm: Confirm = False
    ) -> Result:
        """Refuse a token from now on."""
        return await self._do(ctx, TokenRevoke, name=name, dry_run=dry_run, confirm=confirm)
