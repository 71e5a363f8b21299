"""Matching and subtracting images of different seeing."""
