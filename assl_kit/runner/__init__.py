"""The chain of notebooks: planned, run, resumed, swept, and the pages told of it."""
