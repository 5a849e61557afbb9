"""Tools for admins: who may connect to the broker."""

from collections.abc import Callable, Sequence
from typing import Any

from mcp.server.mcpserver import Context

from gateway.access.commands import NodeLogins, NodeRevoke, NodeRotate
from gateway.mcp.tools.acting import Acting
from gateway.mcp.tools.base import Confirm, DryRun
from gateway.mcp.tools.control import DeviceId, Result


class NodeLoginTools(Acting):
    """Each makes one command."""

    def functions(self) -> Sequence[Callable[..., Any]]:
        return (self.list_node_logins, self.rotate_node_login, self.revoke_node_login)

    async def list_node_logins(self, ctx: Context) -> Result:
        """Who has a login at the broker, without its secret."""
        return await self._do(ctx, NodeLogins)

    async def rotate_node_login(
        self, ctx: Context, device: DeviceId, *, key: bool = False, dry_run: DryRun = False
    ) -> Result:
        """Another password, with `key` another key too, shown this once; until the device has it, it is not heard."""
        return await self._do(ctx, NodeRotate, device=device, key=key, dry_run=dry_run)

    async def revoke_node_login(
        self, ctx: Context, device: DeviceId, *, dry_run: DryRun = False, confirm: Confirm = False
    ) -> Result:
        """End a device's login and key, and disconnect it."""
        return await self._do(ctx, NodeRevoke, device=device, dry_run=dry_run, confirm=confirm)
