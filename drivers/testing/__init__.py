"""Shipped fakes at the wire: chips at the byte level, buses, recordings, virtual time and the conformance suite."""
