"""Benchmarks as their repositories publish them."""
