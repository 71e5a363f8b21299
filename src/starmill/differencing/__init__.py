"""differencing"""
