"""Studies: a grid of runs from one config, and a report with intervals."""
