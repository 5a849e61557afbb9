"""The tools: each a thin typed function over exactly one question or one command.

One file for tools that belong together: a class with `functions()`. Those that need no more than the house are gathered
here; others (analysis, control) are handed to `gateway.mcp.server.build` by who owns what they need.
"""

from collections.abc import Sequence

from gateway.mcp.tools.base import Group, House
from gateway.mcp.tools.devices import DeviceTools
from gateway.mcp.tools.readings import ReadingTools
from gateway.mcp.tools.site import SiteTools


def gather(house: House) -> Sequence[Group]:
    """What every gateway offers."""
    return (DeviceTools(house), ReadingTools(house), SiteTools(house))
