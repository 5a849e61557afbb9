"""Errors that a person meets, as one clear line each."""

from pydantic import ValidationError

from drivers.errors import DriverError
from gateway.access.identity import IdentityError
from gateway.broker.errors import BrokerError
from gateway.config import ConfigError
from gateway.control import ControlError
from gateway.nodes.provision.errors import ProvisionError
from gateway.store.errors import StoreError
from gateway.web.serve import PortTaken

EXPLAINED = (ConfigError, ControlError, StoreError, IdentityError, BrokerError, PortTaken, DriverError, ProvisionError)
"""Kinds whose message already names the value, the rule and the way out."""


def explain(error: BaseException) -> str | None:
    """The line to show for an error, or None where it is a defect of ours that deserves its traceback."""
    if isinstance(error, BaseExceptionGroup):
        return next((line for inner in error.exceptions if (line := explain(inner))), None)
    if isinstance(error, EXPLAINED):
        return str(error)
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))} {e['input']!r}: {e['msg']}" for e in error.errors())
    return None
