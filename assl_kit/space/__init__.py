"""Where records lie: embeddings, exact neighbours, clusters."""
