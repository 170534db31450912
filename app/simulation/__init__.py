"""
The rehearsal: a simulated past of weeks or months, served by the real service within seconds.

`clock` provides the simulated time, `market` generates the prices, `provider_simulators` answers
requests in place of the providers, and `rehearsal` starts and connects them. `faults`, `odd_faults`
and `odd_providers` inject errors and wrong data. The rest of the service is the same in a rehearsal
and in production.
"""
