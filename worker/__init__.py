"""One process bound to one device, with its own model and index. Its decisions are in session and batcher."""
