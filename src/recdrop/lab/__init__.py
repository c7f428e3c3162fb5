"""The lab: the paper's experiments as runnable values; uses only the library's public names."""
