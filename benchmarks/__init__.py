"""Benchmarks of speed, memory and quality; run them from the root of the repository.

The head of each module says how, for example ``python -m benchmarks.quality WORK_DIR``. They are
no part of the installed package.
"""
