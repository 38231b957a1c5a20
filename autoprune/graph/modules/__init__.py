"""torch's attention and recurrent modules, as subclasses that run with whatever widths pruning leaves their weights."""
