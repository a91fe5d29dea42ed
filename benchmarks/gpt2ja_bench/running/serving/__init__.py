"""Servers under requests that come at given rates."""
