"""Everything that is served over HTTP besides the API: pages, charts, feeds, health and metrics."""
