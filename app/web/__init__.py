"""What is served over HTTP besides the API: pages, charts, feeds, live updates, health and metrics."""
