"""Postgres: connections, migrations, roles, and the embedded server of development and tests."""
