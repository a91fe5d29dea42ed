"""What a call of the model does: check what is given, submit it, wait for it."""
