"""How time and memory grow: ``__main__``, then tables, which writes docs/scaling.md."""
