"""_pytest."""
