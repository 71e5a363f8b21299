"""Finding sources: smoothing, thresholds, footprints, peaks."""
