"""What can go wrong below the gateway. The kind decides what the caller does, never the text."""


class DriverError(Exception):
    """Base of every error a driver or a bus may raise."""


class BusError(DriverError):
    """The wire failed: retry with back-off."""


class NoDevice(BusError):
    """Nothing acknowledged the address."""


class BusTimeout(BusError):
    """The wire or the device did not answer in time."""


class BadData(DriverError):
    """The device answered and the bytes are wrong: drop the sample, keep the device."""


class Refused(BadData):
    """The device understood the question and said no: it is well, and the question is not for it."""


class NotReady(DriverError):
    """The device is well but not in the state that this needs; the message says what to do first."""


class WrongDevice(DriverError):
    """Another chip lives at this address: a matter of configuration, do not retry."""


class BusUnavailable(DriverError):
    """The bus cannot be opened (missing, no permission): the message names the way out."""
