"""What data are: images with mask and variance, PSFs, footprints, catalogues, cameras. No algorithms, no files."""
