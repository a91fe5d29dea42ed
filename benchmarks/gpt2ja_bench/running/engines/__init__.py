"""The engines of the comparison: what each does, and the table of all of them."""
