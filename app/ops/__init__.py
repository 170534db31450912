"""
The status snapshot, `verify`, `backup`, and the check whether a service uses a database.

The commands and the monitoring (`/metrics`, `/health`) use them.
"""
