"""Command lines: arguments to settings, settings to a level, a level to an exit code."""
