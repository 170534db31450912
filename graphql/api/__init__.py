"""What the world can read."""
