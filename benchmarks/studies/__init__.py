"""How this project's own figures are made: each module is a command that measures one matter and writes a record of it."""
