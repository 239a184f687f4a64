"""How good answers, routes and selections are, with intervals."""
