"""Measurements beside other clients on the same work; `python -m benchmarks --help`."""
