"""What everything stands on: errors, files, pictures, charts, devices, compilation, checkpoints."""
