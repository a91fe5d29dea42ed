"""Text of a given form: grammars, and the tokens that they allow at every step."""
