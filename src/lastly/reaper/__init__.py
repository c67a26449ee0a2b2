"""The reaper: one small process per user that runs the cleanups of dead owners."""
