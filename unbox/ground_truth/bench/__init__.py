"""Benchmarks: do features mean and cause what they seem to? With controls, baselines and intervals."""
