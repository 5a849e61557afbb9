"""The loader: starts the program in slot a or b, falls back where one does not start. It is never updated remotely.

/slot.json says which: {"active": "a"}, or {"active": "a", "pending": "b", "tries": 0} while b is on trial. A slot on
trial gets TRIES starts to confirm itself (the program removes "pending"); then the active one is back, and "failed"
and "why" tell what happened. A slot that cannot even be imported gives way to the other for this start.
"""

import json
import os
import sys

TRIES = 3
STATE = "slot.json"
CRASH = "crash.txt"
PAUSE_S = 5  # a program that dies at once must not spin


def read():
    """The state, or that of a node that was never updated."""
    try:
        with open(STATE) as file:
            state = json.load(file)
        return state if state.get("active") in ("a", "b") else {"active": "a"}
    except (OSError, ValueError, AttributeError):
        return {"active": "a"}


def write(state):
    """One rename commits it (littlefs and POSIX replace at once)."""
    with open(STATE + ".new", "w") as file:
        json.dump(state, file)
    os.rename(STATE + ".new", STATE)


def choose(state):
    """The slot to start; a start of one on trial is counted before it happens."""
    trial = state.get("pending")
    if trial not in ("a", "b") or trial == state["active"]:
        return state["active"]
    tries = state.get("tries", 0)
    if tries >= TRIES:
        write({"active": state["active"], "failed": trial, "why": state.get("why", "it never confirmed itself")})
        return state["active"]
    state["tries"] = tries + 1
    write(state)
    return trial


def note(slot, error):
    """Keep why it ended: the program tells it to the gateway, and the state tells it of a slot on trial."""
    text = "slot %s: %s: %s" % (slot, type(error).__name__, error)
    with open(CRASH, "w") as file:
        file.write(text[:180] + "\n")
        sys.print_exception(error, file)
    sys.print_exception(error)
    state = read()
    if state.get("pending") == slot:
        state["why"] = text[:100]
        write(state)


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
    """Run the chosen slot, or the other where it cannot be imported; comes back only with an error."""
    chosen = choose(read())
    main = None
    for slot in (chosen, "b" if chosen == "a" else "a"):
        try:
            main = load(slot)
            break
        except Exception as error:
            if slot == chosen:
                note(slot, error)
    if main is not None:
        try:
            main()
        except Exception as error:
            note(slot, error)


if __name__ == "__main__":
    import time

    import machine

    start()
    time.sleep(PAUSE_S)
    machine.reset()
