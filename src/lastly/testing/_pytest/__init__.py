"""What the pytest plugin looks after: leaks, what tests made, workers, earlier runs."""
