"""One file a stage, one visible loop in each: the loop is the documentation."""
