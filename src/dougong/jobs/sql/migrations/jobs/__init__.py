"""Where jobs wait and are kept."""
