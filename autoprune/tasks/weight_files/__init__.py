"""Files of weights in the forms that people have them: read, searched for state dicts, fitted to networks."""
