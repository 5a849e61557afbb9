"""Measurements of the gateway beside peers of the same run: `python -m bench [names…] [--quick]`. Never timed tests."""
