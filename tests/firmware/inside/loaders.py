"""The loader: which slot starts, and what happens where one does not."""

import json
import os
import sys

import machine
import main as loader
from vectors import raises

GOOD = "def main():\n    raise OSError('ran %s')\n"


def slot(name, text):
    os.mkdir(name)
    os.mkdir(name + "/node")
    with open(name + "/node/__init__.py", "w") as file:
        file.write("")
    with open(name + "/node/app.py", "w") as file:
        file.write(text)


def state(**keys):
    with open("slot.json", "w") as file:
        json.dump(keys, file)


def start():
    """What ran, and the state afterwards."""
    for name in list(sys.modules):
        if name.split(".")[0] == "node":
            del sys.modules[name]
    sys.path[:] = [each for each in sys.path if each not in ("a", "b")]
    found = loader.start()
    if found:
        loader.run(*found)
    with open("crash.txt") as file:
        return file.readline().strip(), loader.read()


def test_a_new_board_starts_slot_a():
    slot("a", GOOD % "a")
    assert start() == ("slot a: OSError: ran a", {"active": "a"})


def test_a_damaged_state_starts_slot_a():
    slot("a", GOOD % "a")
    for text in ("", "{", "[]", '{"active": "z"}', '{"active": 1}'):
        with open("slot.json", "w") as file:
            file.write(text)
        assert start()[0] == "slot a: OSError: ran a"


def test_a_slot_on_trial_gets_three_starts():
    slot("a", GOOD % "a")
    slot("b", GOOD % "b")
    state(active="a", pending="b")
    for tries in (1, 2, 3):
        ran, kept = start()
        assert ran == "slot b: OSError: ran b" and kept["tries"] == tries
    ran, kept = start()
    assert ran == "slot a: OSError: ran a"
    assert kept == {"active": "a", "failed": "b", "why": "slot b: OSError: ran b"}


def test_what_the_update_was_stays_known():
    slot("a", GOOD % "a")
    slot("b", GOOD % "b")
    state(active="a", pending="b", tries=2, offer="00ff", version="1.4.0", sensors=["scd30"])
    _, kept = start()
    assert kept["offer"] == "00ff" and kept["sensors"] == ["scd30"] and kept["tries"] == 3
    _, kept = start()
    assert kept == {"active": "a", "failed": "b", "why": "slot b: OSError: ran b", "offer": "00ff", "version": "1.4.0"}


def test_a_slot_on_trial_that_cannot_be_imported_has_failed_at_once():
    slot("a", GOOD % "a")
    slot("b", "import nothing_of_that_name\n")
    state(active="a", pending="b", tries=0, offer="00ff", version="1.4.0")
    ran, kept = start()
    assert ran == "slot a: OSError: ran a", ran
    assert kept["why"] == "slot b: ImportError: no module named 'nothing_of_that_name'" and kept["failed"] == "b"
    assert "pending" not in kept and kept["offer"] == "00ff"


def test_a_slot_on_trial_that_is_not_there():
    slot("a", GOOD % "a")
    state(active="a", pending="b")
    ran, kept = start()
    assert ran == "slot a: OSError: ran a" and kept["failed"] == "b"


def test_a_start_that_cannot_be_counted_is_none():
    """A flash that takes nothing more: the active slot runs, and the one on trial is not started without end."""
    slot("a", GOOD % "a")
    slot("b", GOOD % "b")
    state(active="a", pending="b")
    os.mkdir("slot.json.new")  # no file can be written there
    ran, kept = start()
    assert ran == "slot a: OSError: ran a" and kept == {"active": "a", "pending": "b"}
    os.mkdir("crash")
    os.rmdir("slot.json.new")
    assert start()[0] == "slot b: OSError: ran b"


def test_starts_on_trial_are_under_the_watchdog():
    armed = []
    slot("a", GOOD % "a")
    slot("b", GOOD % "b")
    was, machine.WDT = machine.WDT, lambda timeout: armed.append({"timeout": timeout})
    state(active="a")
    start()
    assert not armed
    state(active="a", pending="b")
    start()
    assert armed == [{"timeout": 120000}]
    machine.WDT = was


def test_a_slot_on_trial_that_hangs_falls_back_too():
    """The watchdog's reset leaves no word: the count of tries was written before."""
    slot("a", GOOD % "a")
    slot("b", GOOD % "b")
    state(active="a", pending="b", tries=3)
    ran, kept = start()
    assert ran == "slot a: OSError: ran a" and kept["failed"] == "b" and "never confirmed" in kept["why"]


def test_a_slot_that_cannot_be_imported_gives_way_at_once():
    slot("a", GOOD % "a")
    for number, text in enumerate(
        ("def main(:\n", "import nothing_of_that_name\n", "raise MemoryError('none')\n", "x = 1\n")
    ):
        if number == 0:
            slot("b", text)
        else:
            with open("b/node/app.py", "w") as file:
                file.write(text)
        state(active="b")
        ran, kept = start()
        assert ran == "slot a: OSError: ran a" and kept["active"] == "b", (text, ran)


def test_both_slots_broken_comes_back():
    slot("a", "def main(:\n")
    state(active="a")
    ran, _ = start()
    assert ran.startswith("slot a: SyntaxError")


def test_half_a_state_is_never_seen():
    slot("a", GOOD % "a")
    state(active="a", pending="b")
    with open("slot.json.new", "w") as file:
        file.write('{"active": "b"')
    assert loader.read()["active"] == "a"
    assert loader.choose(loader.read()) == "b"
    assert loader.read()["tries"] == 1
