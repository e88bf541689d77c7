"""What examples are: datasets, and the transforms between the user's numbers and the model's."""
