"""What a stranger's chat template is tried in."""
