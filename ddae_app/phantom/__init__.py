"""Multi-site datasets of brain phantoms, with known truth."""
