"""The programs that an export for vLLM holds: they stand alone, beside each other, and import nothing of assl_kit."""
