"""The programs that an export holds: they stand alone, beside each other, and import nothing of assl_kit."""
