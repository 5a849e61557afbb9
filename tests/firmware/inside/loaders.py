"""The loader: which slot starts, and what happens where one does not."""

import json
import os
import sys

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
    loader.start()
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
