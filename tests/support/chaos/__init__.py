"""A real pool under constant load, and every fault we know done to it: `make chaos`. docs/chaos.md says what is promised."""
