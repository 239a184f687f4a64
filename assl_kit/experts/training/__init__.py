"""One adapter: its records, its trainer, its result."""
