"""
The rehearsal: months lived through in seconds, with real parts and played providers.

`clock` tells the time, `market` makes the prices, `providers` answers in the providers' place, `rehearsal` puts them to
work. Nothing outside knows whether it is rehearsed.
"""
