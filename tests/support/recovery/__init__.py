"""`make bench-recovery`: how long it takes until a run trains on after something of it died."""
