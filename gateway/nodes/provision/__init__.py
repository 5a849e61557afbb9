"""A node made ready over USB: what MicroPython's raw REPL is told, in which order, and what a board says of itself."""
