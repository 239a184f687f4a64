"""Datasets as the library datasets keeps them: looked at before it maps them into memory."""
