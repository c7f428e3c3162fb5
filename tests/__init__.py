"""Tests of recdrop: the oracles, the backends, the layers and the lab."""
