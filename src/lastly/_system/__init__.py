"""What the kernel says about processes and files, and how to act on exactly one of them. Knows no cleanups.

May use: `errors`. May be used by: everybody.
"""
