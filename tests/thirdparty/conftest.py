"""The example is a project of its own: its tests run where it is installed, as test_thirdparty.py does."""

collect_ignore = ["acme_sensors"]
