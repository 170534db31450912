"""Charts as SVG, and the PNG of a shared link."""
