"""Tools that know nothing of the method: files, limits, trust, devices, threads, the cluster."""
