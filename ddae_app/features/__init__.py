"""Harmonizing tables of regional features, such as cortical thickness and volumes."""
