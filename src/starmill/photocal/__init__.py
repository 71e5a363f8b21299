"""photocal"""
