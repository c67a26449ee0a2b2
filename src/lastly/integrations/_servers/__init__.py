"""Serving processes: what is in flight, who listens, who answers probes."""
