"""Instrument signature removal: algorithms on arrays."""
