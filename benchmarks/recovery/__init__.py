"""What becomes of a training in which something goes wrong: bare, by usual rules, guarded."""
