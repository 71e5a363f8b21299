"""psf_modelling"""
