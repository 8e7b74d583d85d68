"""The world that the embedded model knows."""
