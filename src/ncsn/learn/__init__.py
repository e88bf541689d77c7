"""The experiments: settings, the recipe that follows from them and from the data, and what a run leaves behind."""
