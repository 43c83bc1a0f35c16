"""Multi-site brain phantoms with known truth."""
