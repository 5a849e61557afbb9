"""One file a sensor: a class `Sensor` with CHANNELS, `start()` and `read()`; a file more is a sensor more."""


class SensorError(Exception):
    """The sensor does not answer, or not sensibly; the next try may succeed."""


def open_sensor(driver, bus, options):
    """The sensor of a driver by its name: node/sensors/<driver>.py, so a file of your own is found as ours are."""
    try:
        module = __import__("node.sensors." + driver, None, None, ("Sensor",))
    except ImportError:
        raise ValueError("no driver %r: node/sensors/%s.py is not there" % (driver, driver))
    return module.Sensor(bus, options)
