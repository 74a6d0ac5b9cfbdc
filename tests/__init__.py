"""Tests, named after what they promise."""
