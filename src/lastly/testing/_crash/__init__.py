"""_crash."""
