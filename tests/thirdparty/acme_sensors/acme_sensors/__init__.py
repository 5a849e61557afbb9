"""Drivers of Acme sensors: each module is one, those whose name begins with an underscore are none."""
