"""What several tests share: small models and notebooks, a browser, the root of the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
