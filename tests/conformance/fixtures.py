"""What the conformance suite calls by name: its tools, resources and prompts, on the gateway's own server."""

import base64
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import mcp_types as types
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Message, UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp_types import EmbeddedResource, ImageContent, InputRequiredResult, TextContent, TextResourceContents
from pydantic import BaseModel, Field

from gateway.access.policy import Action
from gateway.access.principal import Scope
from gateway.mcp.endpoint import Endpoint

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def mount(endpoint: Endpoint) -> None:
    """Put all of it beside what the gateway has; its tools are those that come at run time."""

    def add(function: Callable[..., Any], name: str = "", parameters: dict[str, Any] | None = None) -> None:
        name = name or f"test_{function.__name__}"
        tool = Tool.from_function(function, name=name, description=f"The suite's {name}")
        tool.parameters = parameters or tool.parameters
        endpoint.catalogue.add(tool, Action(tool.name, Scope.READ, tool=True))

    for function in (*PLAIN, *LEGACY, *MODERN):
        add(function)
    add(simple_text, "json_schema_2020_12_tool", SCHEMA)
    add(logging_tool, "test_logging_tool")

    async def trigger_tool_change() -> str:
        """Change the list of tools."""
        endpoint.tools_changed()
        return "changed"

    add(trigger_tool_change)
    _resources(endpoint.server)
    _prompts(endpoint.server)


def png() -> bytes:
    """One red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head, pixel = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0), zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def wav() -> bytes:
    """One silent sample."""
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    return b"RIFF" + struct.pack("<I", 4 + len(head) + 10) + b"WAVE" + head + struct.pack("<4sIh", b"data", 2, 0)


def image() -> ImageContent:
    return ImageContent(type="image", data=base64.b64encode(png()).decode(), mime_type="image/png")


def embedded(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    contents = TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return EmbeddedResource(type="resource", resource=contents)


# What both eras have.


async def simple_text() -> str:
    return "This is a simple text response for testing."


async def image_content() -> list[ImageContent]:
    return [image()]


async def audio_content() -> list[types.AudioContent]:
    return [types.AudioContent(type="audio", data=base64.b64encode(wav()).decode(), mime_type="audio/wav")]


async def embedded_resource() -> list[EmbeddedResource]:
    return [embedded("test://embedded-resource", "This is an embedded resource content.")]


async def multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    data = embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json")
    return [TextContent(type="text", text="Multiple content types test:"), image(), data]


async def error_handling() -> str:
    raise ToolError("This tool intentionally returns an error for testing")


async def tool_with_progress(ctx: Context) -> str:
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100)
    return "done"


PLAIN = (
    simple_text,
    image_content,
    audio_content,
    embedded_resource,
    multiple_content_types,
    error_handling,
    tool_with_progress,
)


# What only older clients have: the server asks while a call waits.


async def tool_with_logging(ctx: Context) -> str:
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(text)
    return "done"


async def logging_tool(ctx: Context) -> str:
    return await tool_with_logging(ctx)


async def sampling(prompt: str, ctx: Context) -> str:
    message = types.SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    # On the stream of this call: a stream of its own is open only once the client got round to it.
    said = await ctx.session.create_message(messages=[message], max_tokens=100, related_request_id=ctx.request_id)
    return f"LLM response: {getattr(said.content, 'text', '')}"


class Person(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    name: str = Field("John Doe", description="name")
    age: int = Field(30, description="age")
    score: float = Field(95.5, description="score")
    status: str = Field("active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = Field(default=True, description="verified")


def _titled(*titles: str) -> list[dict[str, str]]:
    return [{"const": f"value{n}", "title": title} for n, title in enumerate(titles, 1)]


OPTIONS = ["option1", "option2", "option3"]


class Enums(BaseModel):
    untitledSingle: str = Field(json_schema_extra={"enum": list[Any](OPTIONS)})  # noqa: N815 - the suite's word
    titledSingle: str = Field(json_schema_extra={"oneOf": list[Any](_titled("One", "Two", "Three"))})  # noqa: N815
    legacyEnum: str = Field(  # noqa: N815
        json_schema_extra={"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]}
    )
    untitledMulti: list[str] = Field(  # noqa: N815
        json_schema_extra={"items": {"type": "string", "enum": list[Any](OPTIONS)}}
    )
    titledMulti: list[str] = Field(  # noqa: N815
        json_schema_extra={"items": {"anyOf": list[Any](_titled("One", "Two", "Three"))}}
    )


async def _elicited(ctx: Context, message: str, schema: type[BaseModel]) -> str:
    said = await ctx.elicit(message, schema)
    content = said.data.model_dump_json() if said.action == "accept" else "{}"
    return f"action={said.action}, content={content}"


async def elicitation(message: str, ctx: Context) -> str:
    return f"User response: {await _elicited(ctx, message, Person)}"


async def elicitation_sep1034_defaults(ctx: Context) -> str:
    return f"Elicitation completed: {await _elicited(ctx, 'Please check', Defaults)}"


async def elicitation_sep1330_enums(ctx: Context) -> str:
    return f"Elicitation completed: {await _elicited(ctx, 'Please choose', Enums)}"


LEGACY = (
    tool_with_logging,
    sampling,
    elicitation,
    elicitation_sep1034_defaults,
    elicitation_sep1330_enums,
)


# What newer clients have: a call is answered by what is missing, and made again.


def form(message: str, name: str, kind: str = "string") -> types.ElicitRequest:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(text: str, most: int) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=TextContent(type="text", text=text))
    return types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=most))


def given(ctx: Context, name: str, field: str) -> Any:
    """What the client's user put into a field; None where there is no such answer."""
    answer = (ctx.input_responses or {}).get(name)
    return (answer.content or {}).get(field) if isinstance(answer, types.ElicitResult) else None


async def input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
    name = given(ctx, "user_name", "name")
    if name is None:
        return InputRequiredResult(input_requests={"user_name": form("What is your name?", "name")})
    return f"Hello, {name}!"


async def input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
    answer = (ctx.input_responses or {}).get("capital_question")
    if answer is None:
        return InputRequiredResult(input_requests={"capital_question": sample("What is the capital of France?", 100)})
    return str(getattr(getattr(answer, "content", None), "text", answer))


async def input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
    answer = (ctx.input_responses or {}).get("client_roots")
    if not isinstance(answer, types.ListRootsResult):
        return InputRequiredResult(input_requests={"client_roots": types.ListRootsRequest()})
    return ", ".join(str(root.uri) for root in answer.roots)


async def input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
    if given(ctx, "confirm", "ok") is None or ctx.request_state != "asked":
        wanted = {"confirm": form("Please confirm", "ok", "boolean")}
        return InputRequiredResult(input_requests=dict(wanted), request_state="asked")
    return "state-ok"


async def input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
    return await input_required_result_request_state(ctx)


async def input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
    wanted: dict[str, Any] = {
        "user_name": form("What is your name?", "name"),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": types.ListRootsRequest(),
    }
    if not wanted.keys() <= (ctx.input_responses or {}).keys():
        return InputRequiredResult(input_requests=wanted, request_state="all")
    return f"Hello, {given(ctx, 'user_name', 'name')}"


async def input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
    if ctx.request_state == "two" and (color := given(ctx, "step2", "color")):
        return f"{color} it is"
    if ctx.request_state == "one" and given(ctx, "step1", "name"):
        wanted = {"step2": form("Step 2: What is your favorite color?", "color")}
        return InputRequiredResult(input_requests=dict(wanted), request_state="two")
    wanted = {"step1": form("Step 1: What is your name?", "name")}
    return InputRequiredResult(input_requests=dict(wanted), request_state="one")


async def input_required_result_capabilities(ctx: Context) -> str | InputRequiredResult:
    can = ctx.client_capabilities
    wanted: dict[str, Any] = {}
    if can is not None and can.sampling is not None:
        wanted["greeting"] = sample("Generate a greeting", 50)
    if can is not None and can.elicitation is not None:
        wanted["user_name"] = form("What is your name?", "name")
    return InputRequiredResult(input_requests=wanted) if wanted and not ctx.input_responses else "done"


async def streaming_elicitation(ctx: Context) -> str | InputRequiredResult:
    await ctx.report_progress(1, 2)
    return await input_required_result_elicitation(ctx)


async def missing_capability(ctx: Context) -> str:
    can = ctx.client_capabilities
    if can is None or can.sampling is None:
        wanted = types.ClientCapabilities(sampling=types.SamplingCapability())
        data = types.MissingRequiredClientCapabilityErrorData(required_capabilities=wanted)
        told = data.model_dump(by_alias=True, mode="json", exclude_none=True)
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "this needs a client that samples", told)
    return "done"


MODERN = (
    input_required_result_elicitation,
    input_required_result_sampling,
    input_required_result_list_roots,
    input_required_result_request_state,
    input_required_result_tampered_state,
    input_required_result_multiple_inputs,
    input_required_result_multi_round,
    input_required_result_capabilities,
    streaming_elicitation,
    missing_capability,
)


def _resources(server: MCPServer[Any]) -> None:
    @server.resource("test://static-text")
    async def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    async def static_binary() -> bytes:
        return png()

    @server.resource("test://template/{id}/data", mime_type="application/json")
    async def template(id: str) -> str:  # noqa: A002 - the name in the address
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.resource("test://watched-resource")
    async def watched() -> str:
        return "watched"


def _prompts(server: MCPServer[Any]) -> None:
    @server.prompt(description="The suite's")
    async def test_simple_prompt() -> str:
        return "This is a simple prompt for testing."

    @server.prompt(description="The suite's")
    async def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt(description="The suite's")
    async def test_prompt_with_embedded_resource(resourceUri: str) -> list[Message]:  # noqa: N803 - the suite's word
        resource = embedded(resourceUri, "Embedded resource content for testing.")
        return [UserMessage(content=resource), UserMessage(content="Please process the embedded resource above.")]

    @server.prompt(description="The suite's")
    async def test_prompt_with_image() -> list[Message]:
        return [UserMessage(content=image()), UserMessage(content="Please analyze the image above.")]

    @server.prompt(description="The suite's")
    async def test_input_required_result_prompt(ctx: Context) -> str | InputRequiredResult:
        context = given(ctx, "user_context", "context")
        if context is None:
            wanted = {"user_context": form("What context should the prompt use?", "context")}
            return InputRequiredResult(input_requests=dict(wanted))
        return f"Use {context}"
