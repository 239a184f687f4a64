"""What the chapters show beside figures: records in two languages, drawn diagrams, pictures of toys, open questions."""
