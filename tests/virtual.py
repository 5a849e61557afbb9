"""Virtual time for every test; the loop itself is shipped, because third-party drivers are tested with it too."""

from drivers.testing.virtual import VirtualLoop, run_virtual

__all__ = ["VirtualLoop", "run_virtual"]
