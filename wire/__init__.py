"""What travels between processes: typed records, the one codec, the one error tree. Never a socket, a clock or a thread."""
