"""Asking the person behind a client whether something destructive is meant, where the client can ask."""

from hashlib import sha256

from mcp.server.elicitation import AcceptedElicitation, render_elicitation_schema
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, Field

from gateway.mcp.errors import one_line

KEY = "confirm"


class Confirmation(BaseModel):
    """The form that is shown."""

    confirm: bool = Field(description="Do it; it cannot be undone")


def can_ask(context: Context) -> bool:
    """Whether the client said that it shows forms (a bare `elicitation: {}` means that too)."""
    capabilities = context.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


async def confirmed(context: Context, would: str) -> bool | InputRequiredResult:
    """The person's word on what `would` be done; on modern connections first the question, which the client answers by
    calling again. An answer counts only for the very question that was asked."""
    message = one_line(f"{would}? This cannot be undone.")
    if context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return await _on_the_line(context, message)
    state = sha256(message.encode()).hexdigest()[:32]
    answer = (context.input_responses or {}).get(KEY)
    if isinstance(answer, ElicitResult) and context.request_state == state:
        return answer.action == "accept" and (answer.content or {}).get("confirm") is True
    form = ElicitRequestFormParams(message=message, requested_schema=render_elicitation_schema(Confirmation))
    return InputRequiredResult(input_requests={KEY: ElicitRequest(params=form)}, request_state=state)


async def _on_the_line(context: Context, message: str) -> bool:
    """Ask while the call waits; a client that fails to ask has not confirmed."""
    try:
        answer = await context.elicit(message, Confirmation)
    except (MCPError, ValueError):
        return False
    return isinstance(answer, AcceptedElicitation) and answer.data.confirm
