"""pcm, the administrator program: parse, call the API, show. Nothing else."""
