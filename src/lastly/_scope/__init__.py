"""A stack of cleanups in this process, and how it closes.

May use: nothing.
Used by: everything in the user's process.
"""
