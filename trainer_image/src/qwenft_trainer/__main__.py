"""``python -m qwenft_trainer [torchrun flags] [script.py args…]``."""

import sys

from qwenft_trainer.launch import main

sys.exit(main())
