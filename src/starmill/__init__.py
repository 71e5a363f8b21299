"""starmill: astronomical images from the detector to science."""

__version__ = "0.1.0"
