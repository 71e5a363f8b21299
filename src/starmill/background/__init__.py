"""Smooth backgrounds and their noise."""
