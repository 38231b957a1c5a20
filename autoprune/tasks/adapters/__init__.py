"""Tasks and trainings of other libraries, each in a file that needs the library only when it is used."""
