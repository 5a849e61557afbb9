"""Two machines on one wire: a pair of network namespaces. Needs root and iproute2."""

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_number = itertools.count()


@dataclass(frozen=True, slots=True)
class Machine:
    """One namespace: its name, its end of the wire, its IPv4 address."""

    name: str
    link: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """What to put before a command that shall run there."""
        return "ip", "netns", "exec", self.name

    def move_to(self, address: str) -> None:
        """This IPv4 address instead of any other."""
        self.ip("-4", "addr", "flush", "dev", self.link)
        self.ip("addr", "add", f"{address}/24", "dev", self.link)
        self.ip("route", "replace", "224.0.0.0/4", "dev", self.link)

    def ip(self, *arguments: str) -> None:
        """An `ip` command about this machine."""
        _run("ip", "-n", self.name, *arguments)


def possible() -> bool:
    """Whether this process may make namespaces."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines that see each other, multicast included, and nothing else; gone afterwards, whatever happens."""
    tag = f"{os.getpid()}x{next(_number)}"
    machines = [Machine(f"gw{tag}{end}", f"v{tag}{end}", f"10.77.0.{at}") for at, end in enumerate("ab", 1)]
    try:
        for machine in machines:
            _run("ip", "netns", "add", machine.name)
            # An IPv6 address is usable at once; the doubt about its uniqueness would cost seconds.
            _run(*machine.inside, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
        first, second = machines
        peer = ("peer", "name", second.link, "netns", second.name)
        _run("ip", "link", "add", first.link, "netns", first.name, "type", "veth", *peer)
        for machine in machines:
            machine.ip("link", "set", "lo", "up")
            machine.ip("link", "set", machine.link, "up", "multicast", "on")
            machine.move_to(machine.address)
        yield first, second
    finally:
        for machine in machines:
            with contextlib.suppress(subprocess.CalledProcessError):
                _run("ip", "netns", "del", machine.name)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=10)
