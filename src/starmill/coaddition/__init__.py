"""Resampling and combining exposures."""
