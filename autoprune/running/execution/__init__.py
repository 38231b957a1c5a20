"""Who does the jobs of a run: this process, or workers of Ray Tune."""
