"""An SCD30's calibration (interface description 1.0). Loaded for a command, and forgotten."""

from micropython import const

from node.sensors.scd30 import checked

_PRESSURE = const(0x0010)
_ALTITUDE = const(0x5102)
_REFERENCE = const(0x5204)
_SELF_CALIBRATION = const(0x5306)
_OFFSET = const(0x5403)
_FIRMWARE = const(0xD100)


async def command(sensor, name, args):
    """One of the sensor's commands, or show_calibration; ValueError where it cannot be, in one line. Returns the
    calibration afterwards."""
    if name == "recalibrate_sensor":
        reference = checked("reference_ppm", args.get("reference_ppm"), 400, 2000)
        if not sensor.fresh():
            raise ValueError("the SCD30 gave no measurement for a minute: wait for its readings")
        await sensor.put(_REFERENCE, reference)
    elif name == "set_self_calibration":
        if not isinstance(args.get("on"), bool):
            raise ValueError("on is true or false")
        await sensor.hold(_SELF_CALIBRATION, int(args["on"]))
    elif name == "set_temperature_offset":
        await sensor.hold(_OFFSET, checked("offset_degc", args.get("offset_degc"), 0, 655.35, 100))
    elif name == "set_altitude":
        await sensor.hold(_ALTITUDE, checked("altitude_m", args.get("altitude_m"), 0, 65535))
    elif name == "set_pressure":
        await sensor.press(checked("pressure_hpa", args.get("pressure_hpa") or 0, 700, 1400))
    return await held(sensor)


async def held(sensor):
    """The chip's settings, read back."""
    firmware, pressure = await sensor.word(_FIRMWARE), await sensor.word(_PRESSURE)
    return {
        "self_calibration": await sensor.word(_SELF_CALIBRATION) == 1,
        "temperature_offset_degc": await sensor.word(_OFFSET) / 100,
        "altitude_m": await sensor.word(_ALTITUDE),
        "pressure_hpa": pressure or None,
        "reference_ppm": await sensor.word(_REFERENCE),
        "firmware": "%d.%d" % (firmware >> 8, firmware & 0xFF),
    }
