"""What an engine or a runtime really computes in INT8, told from what it says of itself."""
