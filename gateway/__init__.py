"""The Ambient Gateway: sensors in, a store in the middle, answers for assistants out."""

__version__ = "0.1.0"
