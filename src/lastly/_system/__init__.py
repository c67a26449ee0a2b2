"""What the kernel says about processes and files, and how to act on exactly one of them. Knows no cleanups.

May use: nothing.
Used by: everybody.
"""
