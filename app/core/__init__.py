"""The settings and the log: what every other module of the service may use."""
