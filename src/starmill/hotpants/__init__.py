"""hotpants"""
