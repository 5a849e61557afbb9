"""Sensors and the wires they hang on. Knows no clock, no identity, no configuration, no gateway."""
