"""The chosen part of a corpus, from a file to a folder that a trainer reads and a hub understands."""
