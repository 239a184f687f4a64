"""What this project measures: its kernels, the paper's claims, growth, serving. Run as ``python -m benchmarks.…``."""
