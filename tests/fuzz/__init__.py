"""Readers on small files that chance has changed; `make fuzz` runs it for a set time."""
