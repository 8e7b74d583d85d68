"""How the embedded model is trained, part by part."""
