"""The small world: its values, what happens in it, and how tasks and houses ask about that."""
