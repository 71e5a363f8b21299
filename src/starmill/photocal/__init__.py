"""Photometric scales and units."""
