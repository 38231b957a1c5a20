"""Networks of other libraries, by name or in folders."""
