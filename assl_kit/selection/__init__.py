"""Which records are kept: A-DBSCAN, MMR, the two stages."""
