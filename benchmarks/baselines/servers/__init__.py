"""The other servers: each a short program over its framework's public API, told by its environment what to serve and where."""
