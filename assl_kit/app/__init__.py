"""The doors: command line, chat page, Colab, vLLM export."""
