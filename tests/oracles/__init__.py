"""Independent oracles in NumPy: the paper's cells, the Philox masks and the layer stack."""
