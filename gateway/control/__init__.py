"""One typed command layer for the command line, MCP and the page, and the socket by which a second process uses it."""

from gateway.access.commands import NodeAdd, TokenCreate, TokenList, TokenRevoke, TokenRotate
from gateway.command import ControlError, Unconfirmed
from gateway.control.access import AccessCommands, Status, StatusView, WearView
from gateway.control.base import LOCAL
from gateway.control.data import DataCommands, ForgetReadings
from gateway.control.pairing import AppDecide, PairingCommands, PairingOpen
from gateway.control.run import Commands
from gateway.control.sensors import SensorCommands
from gateway.control.socket import SOCKET, ask, serve

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
    "PairingCommands",
    "PairingOpen",
    "SensorCommands",
    "Status",
    "StatusView",
    "TokenCreate",
    "TokenList",
    "TokenRevoke",
    "TokenRotate",
    "Unconfirmed",
    "WearView",
    "ask",
    "serve",
]
