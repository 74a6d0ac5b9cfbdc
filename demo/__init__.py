"""A small CodeChat on loopback, and the one-command demo that reads it."""
