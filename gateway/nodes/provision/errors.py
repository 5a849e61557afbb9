"""What may go wrong between this machine and a board on its USB port."""

from gateway.registry.described import clean


class ProvisionError(Exception):
    """One line: what was found, the rule, the way out. Never holds what was sent to a board, which may be secret."""


class NoAnswer(ProvisionError):
    """Nothing on the port speaks MicroPython's raw REPL; `heard` is what came instead."""

    def __init__(self, heard: bytes) -> None:
        super().__init__("no MicroPython answers")
        self.heard = heard


class OnBoard(ProvisionError):
    """A piece of our code failed on the board; `last` is the last line of its traceback."""

    def __init__(self, traceback: str) -> None:
        lines = [line for line in map(clean, traceback.splitlines()) if line]
        self.last = lines[-1] if lines else "no reason given"
        full = "ENOSPC" in self.last or self.last in {"OSError: 28", "OSError: [Errno 28]"}
        why = "its flash is full: --erase empties it, --ring-kb lets readings take less" if full else self.last
        super().__init__(f"the board says: {why}")
        self.full = full
