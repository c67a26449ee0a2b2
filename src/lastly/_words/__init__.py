"""What every room may use: lengths of time, names, signals; the clock; the process's own number; warnings.

May use: nothing.
Used by: everybody.
"""
