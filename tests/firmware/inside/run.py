"""Runs every test_* of a file under MicroPython: `micropython run.py FILE`; a line for each, code 1 if one failed.

The working directory is a folder of its own for each test.
"""

import os
import sys


def main():
    name, place = sys.argv[1], os.getcwd()
    module = __import__(name)
    failed = 0
    for test in sorted(dir(module)):
        if not test.startswith("test_"):
            continue
        os.mkdir(test)
        os.chdir(test)
        try:
            getattr(module, test)()
            print("ok", test)
        except BaseException as error:
            failed += 1
            print("FAILED", test)
            sys.print_exception(error)
        os.chdir(place)
    sys.exit(1 if failed else 0)


main()
