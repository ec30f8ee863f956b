"""Scripts for what was deployed, to copy and run, each with its test."""
