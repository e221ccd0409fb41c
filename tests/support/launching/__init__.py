"""What the tests of the launcher, the data and the reports build their cases from; no torch."""
