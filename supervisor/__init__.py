"""The parent of a pool: starts broker and workers, sees them end, starts them again. No network socket, no torch, no CUDA."""
