"""Engines run side by side, checked and timed, and what they run."""
