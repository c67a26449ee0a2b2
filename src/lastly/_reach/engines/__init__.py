"""How orphans reach the workers: by a job queue, or by looking."""
