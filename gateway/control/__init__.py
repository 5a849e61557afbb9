"""One typed command layer for the command line, MCP and the page, and the socket by which a second process uses it."""

from gateway.access.commands import (
    NodeAdd,
    NodeLogins,
    NodeRevoke,
    NodeRotate,
    TokenCreate,
    TokenList,
    TokenRevoke,
    TokenRotate,
    ViewAuthority,
)
from gateway.command import ControlError, Unconfirmed
from gateway.control.access import AccessCommands, Status, StatusView, WearView
from gateway.control.base import LOCAL
from gateway.control.data import DataCommands, ForgetReadings
from gateway.control.pairing import AppDecide, PairingCommands, PairingOpen
from gateway.control.run import Commands
from gateway.control.sensors import SensorCommands
from gateway.control.socket import SOCKET, ask, serve
from gateway.nodes.commands import SendCommand

__all__ = [
    "LOCAL",
    "SOCKET",
    "AccessCommands",
    "AppDecide",
    "Commands",
    "ControlError",
    "DataCommands",
    "ForgetReadings",
    "NodeAdd",
    "NodeLogins",
    "NodeRevoke",
    "NodeRotate",
    "PairingCommands",
    "PairingOpen",
    "SendCommand",
    "SensorCommands",
    "Status",
    "StatusView",
    "TokenCreate",
    "TokenList",
    "TokenRevoke",
    "TokenRotate",
    "Unconfirmed",
    "ViewAuthority",
    "WearView",
    "ask",
    "serve",
]
