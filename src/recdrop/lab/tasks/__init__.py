"""Tasks: how each one makes its data, its net and its metric."""
