"""The three analysis levels, one story each."""
