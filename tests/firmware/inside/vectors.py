"""Shared vectors, and what is common to these tests."""

import json
import os


def load(name):
    with open("%s/%s_vectors.json" % (os.getenv("VECTORS"), name)) as file:
        return json.load(file)


def raises(kind, call, *arguments):
    """The error's text; AssertionError where there is none of that kind."""
    try:
        call(*arguments)
    except kind as error:
        return str(error)
    raise AssertionError("%s was not raised by %s" % (kind.__name__, arguments))


def close(value, wanted, slack):
    assert abs(value - wanted) <= slack, (value, wanted)
