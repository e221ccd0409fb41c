"""The command line: ``qwenft VERB`` and ``kubectl qft VERB``, one verb a file.

Only ``connect`` talks to a cluster, and only when a verb asks for it: the bare install plans and renders.
"""
