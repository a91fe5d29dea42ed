"""The settings of a generation: what there are, how they are checked, and what they do."""
