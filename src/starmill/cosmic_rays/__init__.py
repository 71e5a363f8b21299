"""cosmic_rays"""
