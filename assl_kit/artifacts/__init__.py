"""A run's parameters and folder, and how each of its artifacts is made."""
