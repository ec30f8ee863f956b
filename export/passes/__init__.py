"""Graph passes, one a file: each changes one thing, in place, and declares what it requires and what it ensures."""
