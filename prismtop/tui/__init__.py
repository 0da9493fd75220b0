"""The full-screen view. The only room that imports Textual; it reads `Frame`s and nothing else."""
