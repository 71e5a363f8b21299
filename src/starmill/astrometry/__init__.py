"""Matching sources to a reference and fitting the WCS."""
