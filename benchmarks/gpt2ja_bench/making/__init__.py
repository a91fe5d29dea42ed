"""What is made for a run, or from its report: checkpoints, tables, and the demo."""
