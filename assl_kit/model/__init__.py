"""The base language model: load it, let it answer, ask how hard it finds a record."""
