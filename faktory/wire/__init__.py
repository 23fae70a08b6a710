"""What is said on the line, without a line: no socket, clock, thread or environment in here."""
