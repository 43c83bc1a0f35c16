"""Train level."""
