"""Charts as SVG, and the PNG of each Monday's course that a shared link shows."""
