"""The embedded model: the world it knows, how it was trained, what is measured on it."""
