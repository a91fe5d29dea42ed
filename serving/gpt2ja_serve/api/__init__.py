"""The endpoints: what they take, what they answer."""
