"""Thin nipype interfaces; no logic of their own."""
