"""The broker: pure decisions in core and what it is made of, sockets in server alone. Never torch, never a request body."""
