"""
How the service stands, `verify` and `backup`: what an operator asks, for the commands and for
monitoring.
"""
