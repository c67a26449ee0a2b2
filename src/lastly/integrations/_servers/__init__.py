"""Serving processes: what is in flight, what listens, what answers probes."""
