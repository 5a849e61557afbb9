"""What a host's name says about where it is."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Never leaves this machine; of names only `localhost` is trusted to say so (RFC 6761 section 6.3)."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
