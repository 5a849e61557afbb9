"""What can go wrong with the broker. One line: what, and the way out."""


class BrokerError(Exception):
    """The broker cannot be started or used."""
