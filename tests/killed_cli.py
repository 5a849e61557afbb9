"""`python -m tests.killed_cli STEP ARGUMENTS…`: the command line, killed before its step of that number."""

import sys

from gateway.__main__ import main
from tests.store.killed import kill_at

if __name__ == "__main__":
    kill_at(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
