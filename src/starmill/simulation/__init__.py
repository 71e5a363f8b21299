"""Simulated nights: what shines, what the detector does to it, and the truth about both."""
