"""datamodel"""
