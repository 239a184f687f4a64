"""How the tiny base is made: ``__main__``, tokenizer, muon."""
