"""Crashing a program at every step: the campaign, its workers, what they report."""
