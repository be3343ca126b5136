"""Index directories: built from a corpus, opened by workers, searched, checked. Importing this alone loads nothing."""
