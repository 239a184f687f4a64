"""What the notebooks show and ask: figures, the map, the evidence, exercises."""
