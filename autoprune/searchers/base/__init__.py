"""What searchers share: the contract, beginnings, moves, models of trials, rounds."""
