"""`gateway drivers`."""

import argparse
import json
from typing import Any

from drivers import registry


def drivers(options: argparse.Namespace) -> int:
    """List the installed drivers with the quantities they measure."""
    rows: list[dict[str, Any]] = []
    for name, module in sorted(registry.available().items()):
        driver = registry.load(name)
        rows.append(
            {
                "driver": name,
                "module": module,
                "bus": driver.BUS.__name__,
                "channels": {channel.key: channel.quantity.unit for channel in driver.CHANNELS},
                "quantities": {channel.quantity.value: channel.quantity.unit for channel in driver.CHANNELS},
            }
        )
    if options.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        print(f"{row['driver']:12} {row['bus']:10} {', '.join(f'{k} ({u})' for k, u in row['quantities'].items())}")
    return 0
