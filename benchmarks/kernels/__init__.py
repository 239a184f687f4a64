"""Our kernels beside their peers: ``__main__``, systems, data, worker, checks, table, plots."""
