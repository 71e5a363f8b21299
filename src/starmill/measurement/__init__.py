"""Measurements of sources: positions, shapes, fluxes, flags, and the plugins that make them columns."""
