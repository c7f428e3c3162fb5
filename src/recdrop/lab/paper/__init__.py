"""The paper's tables: the grid, the printed numbers, and the source of every constant."""
