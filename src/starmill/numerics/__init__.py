"""Solvers, statistics and tiling that all subjects use."""
