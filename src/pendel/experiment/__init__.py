"""What was measured: frames, intensities, and which of them count."""
