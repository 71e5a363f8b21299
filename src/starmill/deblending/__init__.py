"""Splitting blends: each source of a footprint with several peaks gets its own pixels."""
