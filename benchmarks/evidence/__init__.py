"""The paper's claims, measured: ``__main__``, data, study, arms, summary, table."""
