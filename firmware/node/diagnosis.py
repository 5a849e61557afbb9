"""What get_diagnostics tells. Loaded for that, and forgotten."""

import gc


def of(app):
    """How this node fares."""
    gc.collect()
    ring, link, uplink = app.ring, app.link, app.uplink
    return {
        "firmware_version": app.hello["firmware_version"],
        "boot": app.numbers.boot,
        "seq": app.numbers.seq,
        "uptime_ms": app.clock.uptime_ms(),
        "reset_cause": app.hello["reset_cause"],
        "clock": "ntp" if app.clock.zero_ms else "none",
        "heap": {"used": gc.mem_alloc(), "free": gc.mem_free()},
        "rssi_dbm": rssi(app.wlan),
        "broker": "%s:%d" % app.link.address,
        "connects": link.connects,
        "ring": {
            "memory": ring.in_memory,
            "flash_bytes": ring.flash_bytes,
            "in_flight": ring.in_flight,
            "discarded": ring.discarded,
            "damaged": ring.damaged,
            "flushes": ring.flushes,
            "failed": ring.failed,
        },
        "sent": uplink.sent,
        "acks": uplink.acks,
        "refused": uplink.refused,
        "commands_refused": uplink.commands.refused,
        "failures": {place.name: place.failures for place in app.station.places},
    }


def rssi(wlan):
    """Of the Wi-Fi, None where there is none."""
    try:
        return wlan.status("rssi")
    except (OSError, ValueError):
        return None
