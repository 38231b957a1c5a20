"""Changes to copies of networks: masked, thinned, without branches, reconstructed."""
