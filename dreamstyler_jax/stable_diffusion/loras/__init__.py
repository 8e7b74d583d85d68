"""LoRAs: reading their files, naming their layers, merging them into weights."""
