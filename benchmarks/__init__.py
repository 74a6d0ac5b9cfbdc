"""How fast the tap is, against a floor: see README.md."""
