"""``python -m assl_kit``: the command ``assl``."""

from assl_kit.app.cli import main

if __name__ == "__main__":
    main()
