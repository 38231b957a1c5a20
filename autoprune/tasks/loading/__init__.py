"""From what the user's data yield to batches of inputs and targets, drawn and repeatable."""
