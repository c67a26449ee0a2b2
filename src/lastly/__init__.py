"""Cleanup that runs, however your Python program ends."""
