"""Benchmarks: each prints a figure beside a rival's from the same run, and whether it meets its target."""
