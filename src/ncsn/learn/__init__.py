"""Training runs: settings, the recipe that follows from them and from the data, and the record of a training."""
