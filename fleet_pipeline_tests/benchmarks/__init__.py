"""Benchmarks: each prints its method and its figures. Nothing here is a test; timing is never asserted."""
