"""_rented."""
