"""deblending"""
