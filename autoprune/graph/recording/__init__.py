"""What a network does, recorded by running it."""
