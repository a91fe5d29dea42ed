"""What the server does with HTTP itself: connections, who may ask, bodies, errors, logs."""
