"""A run: the result of training, and everything you can do with it."""
