"""The journal: where durable cleanups are written before the thing they undo exists.

One append-only file per owner, and no other state anywhere: who reads the files knows everything. The format
is a contract, described in ``docs/reference/journal.md``.
"""
