"""The three levels for tables of features."""
