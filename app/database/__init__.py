"""Postgres: connections, our migrations and the queue's, and the embedded server of development and tests."""
