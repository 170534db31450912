"""
The rehearsal: months lived through in seconds, with real parts and played providers.

`told` tells the time, `market` makes the prices, `standins` answers in the providers' place, `rehearse` puts them to
work. Nothing outside knows whether it is rehearsed.
"""
