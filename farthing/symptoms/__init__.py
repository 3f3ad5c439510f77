"""The curves of a stage -> findings: known ways in which training goes wrong, with the knob that mends each."""
