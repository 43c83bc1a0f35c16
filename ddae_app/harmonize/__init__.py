"""Harmonisation methods behind one protocol."""
