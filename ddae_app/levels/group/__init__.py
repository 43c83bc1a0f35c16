"""Group level."""
