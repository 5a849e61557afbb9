"""The loader: starts the program in slot a or b, falls back where one does not start. It is never updated remotely.

/slot.json says which: {"active": "a"}, or {"active": "a", "pending": "b", "tries": 0} while b is on trial. A slot on
trial gets three starts to confirm itself (the program removes "pending"), each counted before it happens and made under
the watchdog; then the active one is back, and "failed" and "why" tell what happened. A slot on trial that cannot even
be imported has failed at once; any other gives way for this start. "offer" and "version" are those of the update.
"""

import json
import os
import sys

from micropython import const

_TRIES = const(3)
STATE = "slot.json"
CRASH = "crash.txt"
_PAUSE_S = const(5)  # a program that dies at once must not spin
_PATIENCE_MS = const(120000)  # for a start on trial, until the program feeds the watchdog itself


def read():
    """The state, or that of a node that was never updated."""
    try:
        with open(STATE) as file:
            state = json.load(file)
        if state.get("active") in ("a", "b"):
            if state.get("pending") not in ("a", "b") or state["pending"] == state["active"]:
                state.pop("pending", None)
            return state
    except (OSError, ValueError, AttributeError):
        pass
    return {"active": "a"}


def write(state):
    """One rename commits it (littlefs and POSIX replace at once); False where the flash takes nothing more."""
    try:
        with open(STATE + ".new", "w") as file:
            json.dump(state, file)
        os.rename(STATE + ".new", STATE)
        return True
    except OSError:
        return False


def choose(state):
    """The slot to start; a start of one on trial is counted before it happens, and none that cannot be counted."""
    if "pending" not in state:
        return state["active"]
    tries = state.get("tries", 0)
    if not isinstance(tries, int) or tries >= _TRIES:
        fail(state)
        return state["active"]
    state["tries"] = tries + 1
    return state["pending"] if write(state) else state["active"]


def fail(state):
    """The slot on trial is given up; the program tells it to the gateway."""
    found = {"active": state["active"], "failed": state["pending"], "why": "it never confirmed itself"}
    for key in ("why", "offer", "version"):
        if key in state:
            found[key] = state[key]
    write(found)


def note(slot, error, again):
    """Keep why it ended: the program tells it to the gateway, and the state tells it of a slot on trial."""
    text = "slot %s: %s: %s" % (slot, type(error).__name__, error)
    try:
        with open(CRASH, "w") as file:
            file.write(text[:180] + "\n")
            sys.print_exception(error, file)
    except OSError:  # a full flash
        pass
    sys.print_exception(error)
    state = read()
    if state.get("pending") == slot:
        state["why"] = text[:120]
        (write if again else fail)(state)


def load(slot):
    """The program's entry, of this slot."""
    sys.path.insert(0, slot)
    try:
        from node import app

        return app.main
    except BaseException:
        sys.path.remove(slot)
        for name in list(sys.modules):
            if name.split(".")[0] == "node":
                del sys.modules[name]
        raise


def start():
    """(slot, entry) of the chosen slot, or of the other where it cannot be imported; None where neither can."""
    chosen = choose(read())
    if "pending" in read():
        import machine

        machine.WDT(timeout=_PATIENCE_MS)
    for slot in (chosen, "b" if chosen == "a" else "a"):
        try:
            return slot, load(slot)
        except Exception as error:
            if slot == chosen:
                note(slot, error, False)
    return None


def run(slot, main):
    """Comes back only with an error."""
    try:
        main()
    except Exception as error:
        note(slot, error, True)


if __name__ == "__main__":
    import time

    import machine

    try:
        found = start()
        del choose, fail, load, start  # the heap is small
        if found:
            run(*found)
    except Exception as error:  # whatever it is: a board that stands still helps nobody
        sys.print_exception(error)
    time.sleep(_PAUSE_S)
    machine.reset()
