"""Harmonization methods: one file a method, behind one interface."""
