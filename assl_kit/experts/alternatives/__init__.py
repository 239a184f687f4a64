"""Other ways to use the same adapters, or none: what the centroid router is compared with."""
