"""What an operator asks the running service and tells it: its jobs, and how it stands."""
