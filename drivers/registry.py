"""Find a driver by name. In-tree drivers come through the same door as a third party's."""

import importlib
import pkgutil
from difflib import get_close_matches
from importlib.metadata import entry_points

from drivers.api import GROUP, Driver


def available() -> dict[str, str]:
    """Map each driver name to the module that holds it, importing no driver; a module named _so is no driver."""
    found: dict[str, str] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        package = importlib.import_module(entry.module)
        for info in pkgutil.iter_modules(package.__path__):
            if info.name.startswith("_"):
                continue
            module = f"{entry.module}.{info.name}"
            if found.setdefault(info.name, module) != module:
                raise LookupError(f"driver {info.name!r} is in both {found[info.name]} and {module}: uninstall one")
    return found


def load(name: str) -> type[Driver]:
    """Import one driver; a broken driver harms only the device that asks for it. LookupError names the nearest."""
    known = available()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
        raise LookupError(f"no driver {name!r}: {hint}")
    driver: type[Driver] = importlib.import_module(known[name]).DRIVER
    return driver
