"""coaddition"""
