"""The bundle on disk: names, manifest, and where the demo model lies."""
