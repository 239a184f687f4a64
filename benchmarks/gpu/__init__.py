"""Everything that is worth measuring on a GPU rented by the minute: ``python -m benchmarks.gpu``."""
