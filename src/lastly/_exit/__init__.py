"""How this process ends: the root scope, atexit's contract, signals, the true status."""
