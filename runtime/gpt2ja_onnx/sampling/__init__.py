"""From scores to tokens, in numpy."""
