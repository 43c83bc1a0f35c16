"""Fitting a DDAE to slices."""
