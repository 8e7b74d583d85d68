"""What is measured on the embedded model."""
