"""The CPU execution provider."""
