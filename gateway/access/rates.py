"""How much somebody may ask: token buckets in memory."""

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable

from gateway.access.principal import Principal
from gateway.clock import elapsed_s

MOST = 4096
"""Buckets that are remembered; the one that was touched longest ago gives way, and is full if it comes back."""


class Rates:
    """One bucket a key: `burst` at once, `per_s` more each second; `per_s` 0 limits nothing. Not for threads."""

    def __init__(self, per_s: float, burst: float, *, now_s: Callable[[], float] = elapsed_s) -> None:
        self._per_s, self._burst, self._now_s = per_s, max(1.0, burst), now_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> (what is left, when that was so)

    def take(self, principal: Principal, cost: float = 1.0) -> float:
        """Let this principal spend so much; 0.0 if it may, else after how many seconds, and nothing was spent."""
        return self.spend(principal.key, cost)

    def spend(self, key: str, cost: float = 1.0) -> float:
        """The same for any key. What costs more than the burst waits for a full bucket."""
        if not self._per_s:
            return 0.0
        now_s, cost = self._now_s(), min(cost, self._burst)
        left, then_s = self._buckets.get(key, (self._burst, now_s))
        left = min(self._burst, left + (now_s - then_s) * self._per_s)
        wait_s = 0.0 if left >= cost else (cost - left) / self._per_s
        self._buckets[key] = (left if wait_s else left - cost, now_s)
        self._buckets.move_to_end(key)
        if len(self._buckets) > MOST:
            self._buckets.popitem(last=False)
        return wait_s


def retry_after(wait_s: float) -> str:
    """The same as the header wants it: whole seconds, at least one."""
    return str(max(1, math.ceil(wait_s)))


def place(address: str) -> str:
    """What counts as one place of an address: itself, of IPv6 the network that one house gets (/64)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
    return str(parsed)


_HOME = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")
)


def is_at_home(address: str) -> bool:
    """Whether an address is private to a network (RFC 1918, 3927, 4193, 4291). Loopback is not: a tunnel ends there."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    found = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(found.version == network.version and found in network for network in _HOME)
