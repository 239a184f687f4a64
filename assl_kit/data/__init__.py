"""Records: read, checked, split, and the corpus that the package writes itself."""
