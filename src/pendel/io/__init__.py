"""Files: structures and data in, results out. gemmi lives here and nowhere else."""
