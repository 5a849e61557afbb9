"""Saved queries: SQL that people keep for assistants, run as any other question."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult
from pydantic import Field

from gateway.jail.commands import DeleteSavedQuery, SaveQuery
from gateway.jail.saved import SavedQueries, Value, bind
from gateway.mcp.tools.acting import Acted, Acting, Run
from gateway.mcp.tools.base import Confirm, DryRun, House, answer
from gateway.mcp.tools.control import Result

Ask = Callable[[Context, str, Mapping[str, Value]], Awaitable[CallToolResult]]
"""(who asks, SQL, parameters) -> what execute_sql_query answers."""


class QueryTools(Acting):
    """Keeping and running them."""

    def __init__(self, house: House, run: Run, saved: SavedQueries, ask: Ask) -> None:
        super().__init__(house, run)
        self._saved, self._ask = saved, ask

    def functions(self) -> Sequence[Callable[..., Any]]:
        return (self.list_saved_queries, self.run_saved_query, self.save_query, self.delete_saved_query)

    async def list_saved_queries(self) -> Result:
        """Queries that were saved, their SQL and parameters."""
        frame = self._house.frame()
        found = [
            {"name": each.name, "description": each.description, "sql": each.sql, "parameters": list(each.parameters)}
            for each in await self._saved.all()
        ]
        return answer(Acted(**frame.fields(), queries=found, total=len(found)))  # type: ignore[call-arg]

    async def run_saved_query(
        self,
        ctx: Context,
        name: str,
        parameters: Annotated[dict[str, Any], Field(description="values by name")] = {},  # noqa: B006 - never changed
    ) -> CallToolResult:
        """Run a saved query; the answer is that of execute_sql_query."""
        query = await self._saved.get(name)
        return await self._ask(ctx, query.sql, bind(query, parameters))

    async def save_query(
        self,
        ctx: Context,
        name: str,
        sql: str,
        parameters: Annotated[
            list[dict[str, Any]], Field(description="of each $name in the SQL: name, type, default, description")
        ] = [],  # noqa: B006 - never changed
        description: str = "",
        *,
        dry_run: DryRun = False,
    ) -> Result:
        """Keep a query under a name."""
        given: dict[str, Any] = {"sql": sql, "parameters": tuple(parameters), "description": description}
        return await self._do(ctx, SaveQuery, name=name, dry_run=dry_run, **given)

    async def delete_saved_query(
        self, ctx: Context, name: str, *, dry_run: DryRun = False, confirm: Confirm = False
    ) -> Result:
        """Delete a saved query."""
        return await self._do(ctx, DeleteSavedQuery, name=name, dry_run=dry_run, confirm=confirm)
