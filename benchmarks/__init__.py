"""The benchmarks; run them from the top of the repository, as in ``python -m benchmarks.run``."""
