"""The embedded model: the world of its pictures, how it is trained, and what is measured on it."""
