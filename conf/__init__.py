"""Settings, where each came from, and the paths that follow from them. Imports the standard library and nothing else of ours."""
