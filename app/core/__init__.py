"""Settings, logging, advisory locks and tasks: what every other module of the service may use."""
