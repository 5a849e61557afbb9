"""The program of an Ambient Gateway node, for any ESP32 with stock MicroPython."""

VERSION = "0.1.0"
