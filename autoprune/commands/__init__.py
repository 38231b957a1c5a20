"""What each subcommand does; imported when it is called."""
