"""Measurements of the real product, beside real peers in the same run. `make bench` runs them; tests assert no times."""
