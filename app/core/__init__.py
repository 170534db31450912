"""The settings, the log and the advisory locks: what every other module of the service may use."""
