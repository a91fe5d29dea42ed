"""Batch jobs: files of prompts or texts in, files of results out, resumable."""
