"""Charts as SVG, and the PNG image of a Monday's chart for shared links."""
